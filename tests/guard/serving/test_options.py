from typing import Any

import pytest

from mmguard.errors import OptionError
from mmguard.guard.serving.options import MAX_BUFFERED_BYTES, RequestLimits, ServerOptions


@pytest.mark.parametrize("name", ["max_request_bytes", "max_json_bytes", "max_buffered_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_below_one_byte_is_refused(name: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"{name} must be an integer number of bytes and at least 1, got {value}"):
        RequestLimits(**{name: value})


def test_by_default_the_largest_requests_fit_eight_times() -> None:
    assert RequestLimits().buffered_bytes == MAX_BUFFERED_BYTES
    assert RequestLimits(max_request_bytes=MAX_BUFFERED_BYTES).buffered_bytes == 8 * MAX_BUFFERED_BYTES
    assert RequestLimits(max_buffered_bytes=1).buffered_bytes == 1


@pytest.mark.parametrize("options", [{"port": -1}, {"metrics_port": 2**16}])
def test_a_port_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be an integer from 0 to 65535"):
        ServerOptions(**options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RequestLimits, {"max_request_bytes": None}),
        (RequestLimits, {"max_json_bytes": "1"}),
        (RequestLimits, {"max_buffered_bytes": 1.5}),
        (ServerOptions, {"host": None}),
        (ServerOptions, {"port": True}),
        (ServerOptions, {"limits": None}),
    ],
)
def test_options_of_another_type_are_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        kind(**options)
