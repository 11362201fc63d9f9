"""All errors that mmguard raises deliberately. Each message states what was expected, what was found and what to do."""

from collections.abc import Iterable
from typing import Self


class MmguardError(Exception):
    """Base class of all errors defined by mmguard."""


class ModelError(MmguardError):
    """mmguard cannot guard the model as it is."""


class NotOnnxError(ModelError):
    """The file is missing, is not ONNX, or fails ONNX's checker."""


class NotClassifierError(ModelError):
    """The model is not a single-label classifier with one numeric input and scores (N, K) as output, K ≥ 2."""


class BatchDependentError(ModelError):
    """The model's answer to an input depends on the other inputs in its batch."""


class NoActivationError(ModelError):
    """The model has no activation that a bound could clip."""


class UnsupportedOperatorError(ModelError):
    """The model uses an operator, an attribute or an opset that mmguard does not support."""


class GraphMismatchError(ModelError):
    """Two forms of a network that must be equivalent return different outputs."""


class AuditError(MmguardError):
    """The audit cannot reach a verdict, because the model has too few classes or no maximum margins were stored."""


class RowsError(MmguardError):
    """An error that may concern only some rows of a batch.

    Args:
        *message: the arguments of `Exception`.
        rows: indices of the faulty rows.

    Attributes:
        rows: indices of the faulty rows; empty if the error concerns the whole batch.
    """

    def __init__(self, *message: object, rows: Iterable[int] = ()) -> None:
        super().__init__(*message)
        self.rows = tuple(rows)


class InputError(RowsError, ValueError):
    """The inputs have the wrong shape, dtype or range, or a file cannot be read or written."""


class UnreadableImageError(InputError):
    """An image file cannot be decoded."""


class CleanSetError(InputError):
    """The calibration set is empty, too small or mislabelled, or does not fit the model."""


class CheckpointError(MmguardError):
    """The checkpoint is damaged or belongs to a different calibration."""


class BundleError(MmguardError):
    """The guard bundle cannot be read or written."""


class SchemaError(BundleError):
    """The manifest is malformed, or has a schema version that this version of mmguard cannot read."""


class TamperedBundleError(BundleError):
    """A file of the bundle is missing, is not listed in the manifest, or does not match the manifest."""


class ReplacedBundleError(BundleError):
    """The bundle was replaced by another bundle while it was being read."""


class UnwrittenBundleError(BundleError):
    """The bundle cannot be written, for example because the disk is full. The checkpoint stores the learned bounds."""


class ProviderError(MmguardError):
    """The requested execution provider or device is not available."""


class UnguardedError(MmguardError, AttributeError):
    """The call would or could run the model of a wrapped predictor without the guard."""


class PredictorMismatchError(MmguardError):
    """The predictor to wrap does not run the bundle's model."""


class InferenceError(RowsError):
    """A network failed, did not answer in time, or returned outputs that are not finite."""


class LogitsError(InferenceError):
    """The original network returned NaN or infinite logits for some inputs, so these inputs cannot be tested."""


class LateError(InferenceError):
    """The clipped network was running, but did not answer in time."""


class OverloadError(InferenceError):
    """Too many batches are in flight to accept another batch."""


class CopyError(MmguardError, TypeError):
    """The caller tried to copy or pickle an open guard, which is not possible."""


class OptionError(MmguardError, ValueError):
    """An option is out of range or does not fit the other options. The command exits with code 2."""


class MissingExtraError(MmguardError):
    """A feature needs packages from an extra that is not installed."""

    @classmethod
    def of(cls, feature: str, package: str | None, extra: str) -> Self:
        """Return an error whose message names the missing package and contains the command that installs it.

        Args:
            feature: the feature that needs the package, such as `calibration`.
            package: name of the missing package.
            extra: the extra of mmguard that installs the package.
        """
        return cls(f"{feature} needs {package}: in your clone of mmguard, run pip install '.[{extra}]'")


class RequestTooLargeError(InputError):
    """A request is larger than the server accepts."""


class SlowRequestError(InputError):
    """The body of a request arrives too slowly."""


class ServeError(MmguardError):
    """The server cannot start: a port is already in use, or two bundles have the same name."""
