"""One bundle that is changed and mended again and again."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmguard.bundle.file_names import MANIFEST, PROVENANCE

Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Change:
    """What is done to one bundle.

    Attributes:
        files: content of files by name; None removes one.
        fields: changes of the manifest, in order, after hashes were made anew.
        manifest: text that is written in place of the manifest's, if any.
    """

    files: Mapping[str, bytes | None] = field(default_factory=dict)
    fields: tuple[Callable[[dict[str, Any]], None], ...] = ()
    manifest: bytes | None = None


@dataclass
class Victim:
    """A bundle in a folder, which is changed and mended again and again."""

    folder: Path

    def __post_init__(self) -> None:
        self.raw: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        names = (*self.raw["files"], PROVENANCE)
        self.files = {name: (self.folder / name).read_bytes() for name in names}
        self.places = list(_places(self.raw, ()))

    def apply(self, change: Change) -> None:
        """Change the bundle, so that every hash is of what is there."""
        raw = copy.deepcopy(self.raw)
        for name, content in change.files.items():
            if content is None:
                (self.folder / name).unlink()
                raw["files"].pop(name, None)
            else:
                (self.folder / name).write_bytes(content)
                if name != PROVENANCE:
                    raw["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for each in change.fields:
            each(raw)
        text = json.dumps(raw).encode() if change.manifest is None else change.manifest
        (self.folder / MANIFEST).write_bytes(text)

    def mend(self, change: Change) -> None:
        """Put the changed files back."""
        for name in change.files:
            if name in self.files:
                (self.folder / name).write_bytes(self.files[name])
            else:
                (self.folder / name).unlink()


def _places(raw: Any, at: Steps) -> Iterator[Steps]:
    """Of every value in JSON, the keys and indices that lead to it."""
    if at:
        yield at
    inside = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in inside:
        yield from _places(value, (*at, key))
