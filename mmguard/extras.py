"""What must be installed for an extra, and the error that says so."""

from importlib.util import find_spec

from mmguard.errors import MissingExtraError


def missing(what: str, package: str | None, extra: str) -> MissingExtraError:
    """The error that says which package something needs, and what installs it: mmguard is installed from its clone."""
    return MissingExtraError(f"{what} needs {package}: in the clone of mmguard, run pip install '.[{extra}]'")


def require_calibrate() -> None:
    """Refuse to go on where a package of the extra `calibrate` is missing.

    Raises:
        MissingExtraError: names the package and the command that installs it.
    """
    for package in ("jinja2", "onnx_ir", "torch"):
        try:
            found = find_spec(package)  # without the seconds that an import takes
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise missing("calibration", package, "calibrate")
