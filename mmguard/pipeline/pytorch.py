"""Export a PyTorch module to ONNX, and load a clipped network as a PyTorch module."""

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
from mmguard.errors import MissingExtraError, NotOnnxError, OptionError
from mmguard.exporter.onnx_files import read
from mmguard.pipeline.clean_source import CleanSource
from mmguard.runtime.dtypes import INPUT_DTYPES

Array = npt.NDArray[Any]


@contextmanager
def model_file(model: Path | nn.Module, source: CleanSource) -> Iterator[Path]:
    """Provide the path of a model's ONNX file. A module is exported to a file that is removed afterwards.

    Args:
        model: path of an ONNX file, or a module that takes one tensor (N, ...) and returns logits (N, K), or outputs
            derived from logits.
        source: the calibration set, which provides the example inputs that are needed to export a module.

    Yields:
        The path.

    Raises:
        OptionError: a module cannot be exported because a folder of images provides no example inputs.
        InputError: the calibration set cannot be read.
        NotOnnxError: PyTorch cannot export the module.
    """
    if isinstance(model, Path):
        yield model
        return
    if source.is_folder:
        raise OptionError(
            "exporting a module requires example inputs, which a folder of images does not provide; pass the "
            "calibration set as arrays, a loader, an .npz file or an .npy file, or export the module to ONNX yourself"
        )
    with TemporaryDirectory(prefix="mmguard-") as folder:
        x = source.inputs(_input_dtype(model)).x
        yield export_module(model, x, Path(folder) / f"{type(model).__name__}.onnx")


def export_module(
    module: nn.Module, x: Array, path: Path, input_name: str = "input", output_name: str | None = None
) -> Path:
    """Export a module in evaluation mode to ONNX, with a dynamic batch axis. The module itself is not changed.

    Args:
        module: the module, on any device.
        x: (N, ...) inputs, two of which are passed to the exporter as an example.
        path: ONNX file to write.
        input_name: name of the ONNX input.
        output_name: name of the ONNX output; None lets the exporter choose a name.

    Returns:
        The path.

    Raises:
        NotOnnxError: PyTorch's exporter rejects the module.
        MissingExtraError: the exporter needs a package that is not installed.
    """
    shown = copy.deepcopy(module).cpu().eval()
    example = torch.from_numpy(np.resize(x, (2, *x.shape[1:])))
    if example.is_floating_point():
        example = example.to(_weight_dtype(module))  # inputs and weights must have the same dtype
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                shown,
                (example,),
                input_names=[input_name],
                output_names=None if output_name is None else [output_name],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"exporting a module needs {error.name}: run pip install onnxscript") from error
    except Exception as error:  # the exporter raises errors of any type
        raise NotOnnxError(
            f"PyTorch cannot export this {type(module).__name__}; export it to ONNX yourself and pass the ONNX file. "
            f"Cause: {error}"
        ) from error
    assert program is not None, "without a path, the exporter returns a program"
    ClearMetadataAndDocStringPass()(program.model)  # the exporter stores stack traces, which contain local paths
    program.save(path, external_data=None)
    return path


def clipped_graph(bundle: Bundle) -> DifferentiableGraph:
    """Return the clipped network of a bundle, as documented in `mmguard.clipped_module`.

    Args:
        bundle: an open bundle.

    Returns:
        The module, which takes (N, ...) float32 and returns the model's first output.
    """
    return DifferentiableGraph(read(bundle.path / "clipped.onnx"), bundle.manifest.output.names[0], widen=True)


def _weight_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's first floating-point weight, or float32 if no weight is floating-point."""
    return next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)


def _input_dtype(module: nn.Module) -> str:
    """Return the NumPy dtype name of a module's inputs, or `float32` if mmguard does not support their dtype."""
    name = str(_weight_dtype(module)).removeprefix("torch.")
    return name if name in INPUT_DTYPES else "float32"
