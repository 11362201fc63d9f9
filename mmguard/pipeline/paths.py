"""Where a calibration writes, and what a bundle is called, unless the user says otherwise."""

import re
from pathlib import Path

from mmguard.bundle.manifest import NAME_PATTERN
from mmguard.errors import OptionError


def default_out(model: Path) -> Path:
    """Where the bundle of a model is written unless the user says otherwise."""
    return Path(f"{model.stem}.mmguard")


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of a bundle to be is kept."""
    out = out.resolve()
    return out.parent / f".{out.name}.checkpoint"


def bundle_name(name: str) -> str:
    """A name that can be a metric label and a path in a URL.

    Raises:
        OptionError: nothing of it can.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if not NAME_PATTERN.fullmatch(name):
        raise OptionError(f"{name!r} cannot be a bundle's name; give one with --name, starting with a letter or digit")
    return name
