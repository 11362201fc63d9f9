"""Every public docstring is complete, and its examples run.

ruff checks that an `Args`, `Returns` or `Raises` section that is there is complete; these tests check that it is there.
"""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmguard

PACKAGE = Path(mmguard.__file__).parent
KERNELS = PACKAGE / "calibrate" / "graph" / "operators"
"""Functions registered for ONNX operators: their arguments are the operator's inputs, which ONNX documents."""
COMMANDS = PACKAGE / "cli"
"""Commands document their parameters in NumPy's style, which their help is made from."""
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if KERNELS not in path.parents)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods of a module, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not (isinstance(node, ast.FunctionDef) and "overload" in decorators(node)):
                yield prefix + node.name, node
            if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
                yield from public(node, f"{prefix}{node.name}.")


def parameters(node: Function) -> list[str]:
    """Names of a function's parameters, without the instance or the class."""
    arguments = node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def decorators(node: Function) -> set[str]:
    """Last names of a function's decorators, such as `property`."""
    return {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}


def gaps_of(node: Function | ast.ClassDef, text: str) -> Iterator[str]:
    """What a docstring lacks."""
    if isinstance(node, ast.ClassDef):
        fields = [
            each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and hasattr(each.target, "id")
        ]
        if "dataclass" in {ast.unparse(each).split("(")[0] for each in node.decorator_list}:
            yield from (f"field {name}" for name in fields if not name.startswith("_") and f"{name}:" not in text)
        return
    names = parameters(node)
    if names and not decorators(node) & {"overload", "command", "property"}:
        if "Args:" not in text and "Parameters\n" not in text:
            yield "Args"
        yield from (f"argument {name}" for name in names if "Args:" in text and f"{name}: " not in text)
    returns = node.returns is not None and ast.unparse(node.returns) not in ("None", "Never", "NoReturn")
    generates = returns and ast.unparse(node.returns or node).startswith(("Iterator", "AsyncIterator", "Generator"))
    summary = text.strip().splitlines()[0]
    says_it = summary.startswith(("Return ", "Whether ", "Iterate ")) or not names
    exempt = says_it or decorators(node) & {"property", "cached_property", "command"} or "Returns:" in text
    if returns and not generates and not exempt:
        yield "Returns"
    if generates and "Yields:" not in text and not exempt:
        yield "Yields"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_public_docstrings_are_complete(path: Path) -> None:
    lacking = []
    for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node)
        gaps = ["docstring"] if text is None else list(gaps_of(node, text))
        lacking += [f"{name}: {gap}" for gap in gaps]
    assert not lacking


def modules_with_examples() -> list[str]:
    """Modules whose docstrings have examples."""
    found = [path for path in SOURCES if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(("mmguard", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in found]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.attempted > 0
    assert results.failed == 0
