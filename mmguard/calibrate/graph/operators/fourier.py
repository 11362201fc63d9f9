"""Fourier transforms of signals, window functions and mel filters."""

from math import pi

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers

_WINDOWS = {
    "BlackmanWindow": (0.42, -0.5, 0.08),
    "HammingWindow": (25 / 46, -21 / 46),
    "HannWindow": (0.5, -0.5),
}
"""For each window function, the weights of the cosines that it is a sum of."""


@operator(*_WINDOWS, attributes=("output_datatype", "periodic"), host=(0,))
def cosine_window(node: Node, size: Tensor) -> Tensor:
    """Window (n,): a sum of cosines whose period is n samples if `periodic` is set, else n - 1 samples."""
    (count,) = integers(size)
    period = count if node.attribute("periodic", 1) else count - 1
    angles = 2 * pi * torch.arange(count, dtype=torch.float64) / period
    terms = [weight * torch.cos(i * angles) for i, weight in enumerate(_WINDOWS[node.operator])]
    return torch.stack(terms).sum(0).to(node.dtype(node.attribute("output_datatype", 1)))


def _complex(x: Tensor) -> Tensor:
    """Convert real parts (..., 1), or real and imaginary parts (..., 2), to complex numbers (...)."""
    return torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0]))


@operator("DFT", attributes=("axis", "inverse", "onesided"), host=(1, 2))
def dft(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Fourier transform of x (..., 1 or 2) along an axis; the default is 1 below opset 20, and -2 from opset 20 on."""
    default = node.attribute("axis", 1) if node.version < 20 else -2
    along = (default if axis is None else int(axis)) % x.dim()
    onesided, size = bool(node.attribute("onesided", 0)), None if length is None else int(length)
    if not node.attribute("inverse", 0):
        result = torch.fft.fft(_complex(x), size, along)
        result = result.narrow(along, 0, result.shape[along] // 2 + 1) if onesided else result
    elif onesided:
        real: Tensor = torch.fft.irfft(_complex(x), size, along)
        return real.unsqueeze(-1)
    else:
        result = torch.fft.ifft(_complex(x), size, along)
    return torch.view_as_real(result).to(x.dtype)


@operator("STFT", attributes=("onesided",), host=(1, 3))
def stft(node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """Spectra (N, frames, bins, 2) of windowed frames of x (N, samples, 1 or 2); frames start every `step` samples."""
    size = len(window) if window is not None else int(length) if length is not None else x.shape[1]
    frames = _complex(x if x.dim() == 3 else x.unsqueeze(-1)).unfold(1, size, int(step))
    spectra = torch.fft.fft(frames if window is None else frames * window.to(x.device))
    bins = size // 2 + 1 if node.attribute("onesided", 1) else size
    return torch.view_as_real(spectra[..., :bins]).to(x.dtype)


@operator("MelWeightMatrix", attributes=("output_datatype",), host=(0, 1, 2, 3, 4))
def mel_weights(node: Node, bands: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Triangular filters (length / 2 + 1, bands) whose corners are equally spaced on the mel scale."""
    mels = [2595 * torch.log10(1 + edge.double() / 700) for edge in (low, high)]
    steps = torch.arange(int(bands) + 2, dtype=torch.float64)
    hertz = 700 * (10 ** ((mels[0] + steps * (mels[1] - mels[0]) / len(steps)) / 2595) - 1)
    corners = torch.floor((int(length) + 1) * hertz / int(rate))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    at = torch.arange(int(length) // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where(centre == left, (at == centre).double(), (at - left) / (centre - left))
    falling = torch.where(at == centre, 1.0, (right - at) / (right - centre))
    weights = torch.where(at <= centre, rising, falling).nan_to_num(0.0).clamp(min=0)
    weights = torch.where(at < left, 0.0, torch.where(at > right, 0.0, weights))
    return weights.to(node.dtype(node.attribute("output_datatype", 1)))
