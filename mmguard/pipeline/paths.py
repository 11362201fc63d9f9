"""Default names and paths of the files that a calibration writes."""

import re
from pathlib import Path

from mmguard.bundle.manifest import NAME_PATTERN
from mmguard.errors import OptionError


def default_out(model: Path) -> Path:
    """Return the folder that a model's bundle is written to by default.

    Args:
        model: path of the ONNX file.
    """
    return Path(f"{model.stem}.mmguard")


def checkpoint_path(out: Path) -> Path:
    """Return the path of a calibration's checkpoint, which lies next to the bundle.

    Args:
        out: folder of the bundle.
    """
    out = out.resolve()
    return out.parent / f".{out.name}.checkpoint"


def bundle_name(name: str) -> str:
    """Replace all characters of a name that are not allowed in a metric label or a URL with hyphens.

    Args:
        name: the requested name.

    Returns:
        The name with the replacements.

    Raises:
        OptionError: the name does not start with a letter or digit, or is too long.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if not NAME_PATTERN.fullmatch(name):
        raise OptionError(
            f"{name!r} cannot be used as the bundle's name; pass a --name of up to 128 characters that starts with a "
            "letter or digit"
        )
    return name
