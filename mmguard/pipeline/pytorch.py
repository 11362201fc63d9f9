"""For PyTorch users: a module becomes an ONNX file, a loader becomes D, and a clipped network a module again."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from mmguard.bundle.bundle import Bundle
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.errors import CleanSetError, MissingExtraError, NotOnnxError, OptionError
from mmguard.exporter.onnx_files import read
from mmguard.inputs.reading import read_array
from mmguard.pipeline.api import Clean

Array = npt.NDArray[Any]


@contextmanager
def as_files(model: str | Path | nn.Module, clean: Clean) -> Iterator[tuple[Path, Path]]:
    """Paths of a model and of D; what is in memory is written to files that are gone afterwards.

    Args:
        model: ONNX file, or a module that takes one tensor (N, ...) and returns logits (N, K) or what is made of them.
        clean: D as `calibrate_model` takes it.

    Raises:
        CleanSetError: D in memory is not of numbers, or its batches do not fit together.
        NotOnnxError: PyTorch cannot export the module.
        OptionError: a module with D in a folder, which does not say what the module takes.
    """
    with TemporaryDirectory(prefix="mmguard-") as folder:
        path = Path(clean) if isinstance(clean, (str, Path)) else _write_clean(Path(folder) / "clean.npz", clean)
        if isinstance(model, (str, Path)):
            yield Path(model), path
            return
        if path.is_dir():
            raise OptionError(
                "to export a module its inputs are needed: give D as arrays, a loader, an .npz or an .npy"
            )
        yield export_module(model, read_array(path).x, Path(folder) / f"{type(model).__name__}.onnx"), path


def export_module(module: nn.Module, x: Array, path: Path) -> Path:
    """Export a module in evaluation mode to ONNX, with a dynamic batch axis. The module itself stays as it is.

    Args:
        module: on any device. x: (N, ...) inputs, of which two are shown to the exporter.

    Raises:
        NotOnnxError: PyTorch's exporter refuses the module.
        MissingExtraError: the exporter needs a package that is not there.
    """
    shown = copy.deepcopy(module).cpu().eval()
    weight = next((w for w in shown.parameters() if w.is_floating_point()), None)
    example = torch.from_numpy(np.resize(x, (2, *x.shape[1:])))
    if weight is not None and example.is_floating_point():
        example = example.to(weight.dtype)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                shown,
                (example,),
                input_names=["input"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"exporting a module needs {error.name}: pip install onnxscript") from error
    except Exception as error:  # the exporter raises what it likes
        raise NotOnnxError(
            f"PyTorch cannot export this {type(module).__name__}; export it yourself: {error}"
        ) from error
    assert program is not None, "the exporter returns a program when it is given no path"
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, and with them folders
    program.save(path, external_data=None)
    return path


def module_of(bundle: str | Path) -> nn.Module:
    """The clipped network of a bundle as a PyTorch module.

    Args:
        bundle: folder of a guard bundle.

    Returns:
        A module that takes (N, ...) float32, the model's own input, and returns the model's first output. It is
        differentiable with respect to its input, moves between devices, and has no parameters to train.

    Raises:
        BundleError: no bundle there, or a file that was changed.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    opened = Bundle.open(bundle)
    return DifferentiableGraph(read(opened.path / "clipped.onnx"), opened.manifest.output.names[0], widen=True)


def _write_clean(path: Path, clean: Any) -> Path:
    x, y = _gathered(clean)
    if not len(x):
        raise CleanSetError("there are no clean inputs; give some 50 of each class")
    arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
    np.savez(path, **arrays)
    return path


def _gathered(clean: Any) -> tuple[Array, Array | None]:
    """Inputs and labels of D in memory."""
    if isinstance(clean, tuple) or hasattr(clean, "__array__"):
        return _batch(clean)
    batches = [_batch(batch) for batch in clean]
    if not batches:
        return np.empty((0, 1), np.float32), None
    labels = [y for _, y in batches if y is not None]
    if len(labels) not in (0, len(batches)):
        raise CleanSetError("some batches of the clean inputs have labels and others have none")
    try:
        return np.concatenate([x for x, _ in batches]), np.concatenate(labels) if labels else None
    except ValueError as error:
        raise CleanSetError(f"the batches of the clean inputs do not fit together: {error}") from error


def _batch(batch: Any) -> tuple[Array, Array | None]:
    """A batch as a loader gives it: inputs alone, or with labels."""
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise CleanSetError(f"a batch of clean inputs is x or (x, y), got {len(batch)} parts")
        return _array(batch[0]), _array(batch[1]) if len(batch) == 2 else None
    return _array(batch), None


def _array(value: Any) -> Array:
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    if str(getattr(detached, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have
        detached = detached.float()
    array = np.asarray(detached)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise CleanSetError(
            f"clean inputs and labels must be arrays or tensors of numbers, got {type(value).__name__}; give x, "
            "(x, y), or a loader of these"
        )
    return array
