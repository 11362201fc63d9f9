"""How far an input is from the clean images in each layer of a network: ranks of neighbours, tubes and graphs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.activations import Trace, Tracer, is_weighted_or_relu
from benchmarks.suspect import Suspect

BATCH = 250
"""Images whose activations are kept at a time."""

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """The nearest image of D that the network decides as the input, in each of L layers.

    Attributes:
        ranks: number of images of D that are nearer than it, (N, L) float64, from 0 to n - 1. It is n - 1, the worst,
            if no image of D has the same decision.
        distances: Euclidean distance to it, (N, L) float64; infinite if there is none.
        indices: its index in D, (N, L) int64; any if there is none.
        labels: decisions on the inputs, (N,) int64.
    """

    ranks: Values
    distances: Values
    indices: Indices
    labels: Labels


class Neighbourhood:
    """The activations of D in the convolutions, ReLUs and linear layers of a network.

    Images of D count under the network's decision, which their label is not needed for.
    """

    def __init__(self, suspect: Suspect, x: Images) -> None:
        """Keep the activations of images (n, 32, 32, 3) uint8 of D, n >= 2."""
        self._tracer = Tracer(suspect, is_weighted_or_relu)
        traces = [self._tracer(batch) for batch in _batches(x)]
        by_layer = zip(*(trace.layers for trace in traces), strict=True)
        self._layers = [Points(torch.cat([_flat(part) for part in parts])) for parts in by_layer]
        self.labels = np.concatenate([trace.labels for trace in traces])
        self._mine = torch.from_numpy(self.labels).to(traces[0].layers[0].device)

    def of_others(self, x: Images) -> Nearest:
        """Find the nearest images of D of other images (N, 32, 32, 3) uint8, N >= 1."""
        return _join([self._nearest_of(self._tracer(batch)) for batch in _batches(x)])

    def of_own(self) -> Nearest:
        """Find the nearest images of D of each image of D, other than itself."""
        return self._nearest((layer.own() for layer in self._layers), self.labels)

    def radii(self, share: float) -> Values:
        """Return the distance of each image of D to its neighbour number ceil(share * m) among its class, (n, L).

        m is the number of other images of D with the same decision. The radius is infinite if there are none.
        """
        same = self._mine[:, None] == self._mine
        same.fill_diagonal_(False)
        place = (same.sum(dim=1) * share).ceil().long().clamp_min(1) - 1
        rows = torch.arange(len(place), device=place.device)
        ordered = (layer.own().where(same, torch.inf).sort(dim=1).values for layer in self._layers)
        return _array([squares[rows, place].sqrt() for squares in ordered])

    def graphs(self, neighbours: int) -> Iterator[NDArray[np.bool_]]:
        """Yield for each layer the graph of D, (n, n) bool: whether one of two images is among the other's nearest."""
        for layer in self._layers:
            squares = layer.own()
            nearest = squares.topk(neighbours, dim=1, largest=False).indices
            edges = torch.zeros_like(squares, dtype=torch.bool).scatter_(1, nearest, True)
            yield (edges | edges.T).cpu().numpy()

    def _nearest_of(self, trace: Trace) -> Nearest:
        pairs = zip(self._layers, trace.layers, strict=True)
        return self._nearest((layer.others(_flat(values)) for layer, values in pairs), trace.labels)

    def _nearest(self, layers: Iterator[Tensor], labels: Labels) -> Nearest:
        same = torch.from_numpy(labels).to(self._mine.device)[:, None] == self._mine
        ranks, distances, indices = [], [], []
        for squares in layers:
            least, index = squares.where(same, torch.inf).min(dim=1)
            ranks.append((squares < least[:, None]).sum(dim=1).clamp_max(len(self._mine) - 1))
            distances.append(least.sqrt())
            indices.append(index)
        return Nearest(_array(ranks), _array(distances), _array(indices).astype(np.int64), labels)


class Points:
    """Points (n, d) float32, and the squared Euclidean distances to them."""

    def __init__(self, points: Tensor) -> None:
        """Keep the points, centred: distances stay as they are, and products of smaller numbers are rounded less."""
        self._mean = points.mean(dim=0)
        self._centred = points - self._mean
        self._lengths = torch.linalg.vector_norm(self._centred, dim=1).square()

    def own(self) -> Tensor:
        """Return the squared distances between the points, (n, n), infinite from a point to itself."""
        return self._to(self._centred).fill_diagonal_(torch.inf)

    def others(self, inputs: Tensor) -> Tensor:
        """Return the squared distances (N, n) from other points (N, d)."""
        return self._to(inputs - self._mean)

    def _to(self, centred: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(centred, dim=1).square()
        squares: Tensor = lengths[:, None] + self._lengths - 2 * (centred @ self._centred.T)
        return squares.clamp_min(0)


def _batches(x: Images) -> Iterator[Images]:
    return (x[first : first + BATCH] for first in range(0, len(x), BATCH))


def _flat(layer: Tensor) -> Tensor:
    """Reshape activations (N, C, H, W) or (N, C) to (N, d), in the order that they have in memory."""
    return layer.movedim(1, -1).flatten(1)


def _array(layers: list[Tensor]) -> Values:
    return torch.stack(layers, dim=1).double().cpu().numpy()


def _join(parts: list[Nearest]) -> Nearest:
    return Nearest(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
