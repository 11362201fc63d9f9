"""A stand-in for torchvision, which timm and transformers import for transforms that the survey never calls.

torchvision is not available for every build of PyTorch. Every name in the stand-in is an empty class.
"""

import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


class _Empty(type):
    def __getattr__(cls, name: str) -> type:
        return _empty(name)


def _empty(name: str) -> type:
    if name.startswith("__"):  # names that inspection looks for
        raise AttributeError(name)
    return _Empty(name, (), {})


class _StandIn(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__dict__.update(__path__=[], __file__="torchvision", __version__="0", __getattr__=_empty)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing."""


def install() -> None:
    """Make `import torchvision` find the stand-in if torchvision is not installed."""
    if find_spec("torchvision") is None:
        sys.meta_path.append(_StandIn())
