"""Every error that mmguard raises on purpose. Each message says what was expected, what came and what to do."""

from collections.abc import Iterable
from typing import Self


class MmguardError(Exception):
    """Root of the tree: catching it catches every refusal of mmguard and nothing else."""


class ModelError(MmguardError):
    """The model cannot be guarded as it is."""


class NotOnnxError(ModelError):
    """The file is missing, is not ONNX, or fails ONNX's own checker."""


class NotClassifierError(ModelError):
    """The graph is not one float input and one (N, K) output with K >= 2, of which one class is true."""


class BatchDependentError(ModelError):
    """The model's answer to an input depends on what else is in its batch."""


class NoActivationError(ModelError):
    """The graph has no activation that a bound could clip."""


class UnsupportedOperatorError(ModelError):
    """The graph uses an operator, attribute or version that the differentiable graph does not know."""


class GraphMismatchError(ModelError):
    """Two forms of one network, which must be equal, differ on real samples."""


class AuditError(MmguardError):
    """The margins of a network say nothing of whether it is backdoored."""


class RowsError(MmguardError):
    """An error of a batch.

    Attributes:
        rows: numbers of the rows at fault; empty where it is not of rows.
    """

    def __init__(self, *message: object, rows: Iterable[int] = ()) -> None:
        super().__init__(*message)
        self.rows = tuple(rows)


class InputError(RowsError, ValueError):
    """Inputs that the model cannot take: wrong shape, dtype, range or file."""


class UnreadableImageError(InputError):
    """A file that should be an image cannot be decoded."""


class CleanSetError(InputError):
    """The clean set cannot be used for calibration: empty, too small, mislabelled, or not the model's."""


class CheckpointError(MmguardError):
    """The checkpoint cannot be gone on from: it is damaged, or of another calibration."""


class BundleError(MmguardError):
    """The guard bundle cannot be written or read."""


class SchemaError(BundleError):
    """The manifest is not of the schema that this version reads."""


class TamperedBundleError(BundleError):
    """A file of the bundle is missing, is not listed, or is not what the manifest says of it."""


class ReplacedBundleError(BundleError):
    """Another bundle took the place of this one while it was read."""


class UnwrittenBundleError(BundleError):
    """The bundle cannot be written, for example to a full disk. What was learned is kept."""


class ProviderError(MmguardError):
    """The execution provider that was asked for cannot be had."""


class UnguardedError(MmguardError, AttributeError):
    """The call would run a wrapped predictor's model without the guard, or might."""


class PredictorMismatchError(MmguardError):
    """The predictor to be wrapped is not the bundle's model."""


class InferenceError(RowsError):
    """The networks could not answer: a failed or late run, or outputs that are not finite."""


class LogitsError(InferenceError):
    """The original network itself gives NaN or infinity for some inputs, which no test can judge."""


class LateError(InferenceError):
    """The clipped network was not done in time, although it had room to run."""


class OverloadError(InferenceError):
    """Too many batches are in flight to take another: send fewer at once, or try again."""


class CopyError(MmguardError, TypeError):
    """An open guard cannot be copied or pickled."""


class OptionError(MmguardError, ValueError):
    """An option is not one of its values, or out of its range: wrong use, exit code 2 of the command."""


class MissingExtraError(MmguardError):
    """A part of mmguard needs packages of an extra that is not installed."""

    @classmethod
    def of(cls, what: str, package: str | None, extra: str) -> Self:
        """The error that names a missing package, and the command that installs it from mmguard's clone.

        Args:
            what: what needs the package, such as `calibration`.
            package: name of the missing package.
            extra: the extra that installs it.
        """
        return cls(f"{what} needs {package}: in the clone of mmguard, run pip install '.[{extra}]'")


class RequestTooLargeError(InputError):
    """A request of more bytes than the server takes."""


class SlowRequestError(InputError):
    """A request whose body comes too slowly."""


class ServeError(MmguardError):
    """The server cannot be started: a port is taken, or two bundles share a name."""
