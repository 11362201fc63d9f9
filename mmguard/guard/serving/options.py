"""Options of the server: its address and ports, and limits on the size of requests."""

from dataclasses import dataclass, field, fields

from mmguard.errors import OptionError, RequestTooLargeError

MAX_REQUEST_BYTES = 128 * 2**20
"""Default maximum size of a request body, in bytes.

For comparison, 128 RGB images of 224 x 224 pixels take 73 MiB as a binary float32 tensor.
"""
MAX_JSON_BYTES = 16 * 2**20
"""Default maximum size of the JSON in a request, in bytes. This is enough for five RGB images of 224 x 224 pixels."""
MAX_BUFFERED_BYTES = 2**30
"""Default memory limit for all requests in flight, in bytes.

The default is higher if `MAX_BUFFERED_BODIES` request bodies of maximum size need more memory than that.
"""
MAX_BUFFERED_BODIES = 8
PORTS = range(2**16)


@dataclass(frozen=True)
class RequestLimits:
    """Limits on the size of requests, in bytes.

    Attributes:
        max_request_bytes: maximum size of a request body, both before and after decompression. The server responds to a
            larger body with status 413.
        max_json_bytes: maximum size of the JSON in a request, not counting binary tensors. The server responds to
            larger JSON with status 413.
        max_buffered_bytes: memory limit for the bodies, inputs and responses of all requests in flight. None means
            1 GiB or eight times `max_request_bytes`, whichever is larger. If a request needs more memory than is
            currently free, the server responds with status 503. If a request needs more memory than the whole limit,
            the server responds with status 413.

    Raises:
        OptionError: A limit is not an integer, or is less than 1.
    """

    max_request_bytes: int = MAX_REQUEST_BYTES
    max_json_bytes: int = MAX_JSON_BYTES
    max_buffered_bytes: int | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and limit.name == "max_buffered_bytes":
                continue
            if type(value) is not int or value < 1:
                raise OptionError(
                    f"{limit.name} must be an integer number of bytes and at least 1, got {value!r}; "
                    "pass a positive integer"
                )

    @property
    def buffered_bytes(self) -> int:
        """Memory limit for all requests in flight, in bytes. If `max_buffered_bytes` is None, this is the default."""
        if self.max_buffered_bytes is not None:
            return self.max_buffered_bytes
        return max(MAX_BUFFERED_BYTES, MAX_BUFFERED_BODIES * self.max_request_bytes)


@dataclass(frozen=True)
class ServerOptions:
    """The address and ports of the server, and its limits on the size of requests.

    Attributes:
        host: address to listen on, for both ports.
        port: port of the inference protocol; 0 picks a free port.
        metrics_port: port of the Prometheus metrics; 0 picks a free port.
        limits: limits on the size of requests.

    Raises:
        OptionError: A port is not an integer from 0 to 65535, `host` is not a string, or `limits` is not a
            `RequestLimits`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9464
    limits: RequestLimits = field(default_factory=RequestLimits)

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not isinstance(self.limits, RequestLimits):
            raise OptionError(
                "host must be a string and limits must be an mmguard.RequestLimits, got "
                f"host={self.host!r} and limits={self.limits!r}"
            )
        for name in ("port", "metrics_port"):
            value = getattr(self, name)
            if type(value) is not int or value not in PORTS:
                raise OptionError(
                    f"{name} must be an integer from 0 to 65535, got {value!r}; use 0 to pick a free port"
                )


def check_size(size: int, limit: int) -> None:
    """Check that a request body, or the JSON in a request body, does not exceed a size limit.

    Args:
        size: size of the body or of the JSON, in bytes.
        limit: maximum size accepted, in bytes.

    Raises:
        RequestTooLargeError: `size` exceeds `limit`.
    """
    if size > limit:
        raise RequestTooLargeError(
            f"the request exceeds the limit of {limit} bytes, which also applies after decompression; split the batch, "
            "or send data as a binary tensor, which is smaller than JSON and has a higher limit"
        )
