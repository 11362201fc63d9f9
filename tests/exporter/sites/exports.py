"""Exports by PyTorch's two exporters."""

import warnings
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn


def export(model: nn.Module, x: Tensor, path: Path, dynamo: bool, opset: int) -> ir.Model:
    """Write a model of `x` and `logits`, its first axis dynamic."""
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            *(model.eval(), (x,), path),
            input_names=["x"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=dynamo,
            verbose=False,
            **dynamic,
        )
    return ir.load(path)
