"""TED with a detector for each class and with more weight on layers that separate the classes.

Mo, Cheng, Sun, Zhang, Luo and Gao 2025, "TED-LaST: towards robust backdoor defense against adaptive attacks".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.judging import Scores, flag_above
from benchmarks.detectors.neighbours import Nearest, Neighbourhood, Values
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.detectors.ted import PcaOutliers
from benchmarks.metrics import threshold_at
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class TedLast:
    """How unusual the weighted ranks of an input are among those of its class in D; larger is more suspicious.

    Source: the abstract of Mo et al. 2025: the dynamics are tracked for each label, and layers are emphasised. The
    weight of a layer is, as in a public reimplementation, the modularity of the graph in which each image of D is
    joined to its ceil(sqrt(n)) nearest, split into the class and all others, and scaled per class to [0, 1] over the
    layers. Ranks, layers and the outlier detector are those of `Ted`.

    Adapted: the ranks are standardised before they are weighted, because the detector would undo weights before that.
    A class of D has too few images for a threshold at theta, so the scores of each class are standardised by mean and
    standard deviation of D, and one threshold at the 1 - theta quantile holds for all classes. A class that the network
    decides on for fewer than two images of D is judged by all of D, with weights of 1.

    Attributes:
        components: components of each PCA.
        theta: share of D that may be flagged, in (0, 1).
        per_class: clean images per class; we do not know theirs.
        forwards: forward passes per input: only the classification. The distances to D take longer than that.
    """

    components: int = 2
    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Fit to D, without labels; `seed` is not used. Scores are in standard deviations of the scores of a class."""
        neighbourhood = Neighbourhood(suspect, clean.x)
        own, count = neighbourhood.of_own(), math.ceil(math.sqrt(len(clean.x)))
        emphasis = weights(list(neighbourhood.graphs(min(count, len(clean.x) - 1))), own.labels)
        overall = _ClassDetector(own.ranks, self.components, None)
        classes = {
            label: _ClassDetector(own.ranks[own.labels == label], self.components, emphasis[label])
            for label in emphasis
            if (own.labels == label).sum() > 1
        }

        def of(nearest: Nearest) -> Scores:
            scores: Scores = np.empty(len(nearest.labels))
            for label in np.unique(nearest.labels):
                rows = nearest.labels == label
                scores[rows] = classes.get(label, overall).scores(nearest.ranks[rows])
            return scores

        def score(x: Images) -> Scores:
            return of(neighbourhood.of_others(x))

        return flag_above(score, threshold_at(of(own), self.theta))


def weights(graphs: list[NDArray[np.bool_]], labels: Labels) -> dict[int, Values]:
    """Return the weights (L,) in [0, 1] of L layers for each class of D.

    Args:
        graphs: (n, n) bool for each layer, symmetric, without loops.
        labels: decisions on D, (n,) int64.

    Returns:
        The modularity of each layer, less the least and divided by the range over the layers; 1 if all are equal.
    """
    found = {}
    for label in np.unique(labels):
        values = np.array([modularity(graph, labels == label) for graph in graphs])
        span = values.max() - values.min()
        found[int(label)] = (values - values.min()) / span if span > 0 else np.ones(len(values))
    return found


def modularity(graph: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """Return Newman's modularity of a graph (n, n) split into two parts; `inside` (n,) tells which is whose.

    It is the sum over the parts of the share of edges within, minus the share expected if edges were drawn at random.
    """
    ends = graph.sum()
    shares = ((graph[np.ix_(part, part)].sum() / ends, graph[part].sum() / ends) for part in (inside, ~inside))
    return float(sum(within - incident**2 for within, incident in shares))


class _ClassDetector:
    """An outlier detector whose scores have mean 0 and standard deviation 1 on the vectors that it is fitted to."""

    def __init__(self, vectors: Values, components: int, emphasis: Values | None) -> None:
        self._outliers = PcaOutliers(vectors, components, emphasis)
        own = self._outliers.scores(vectors)
        self._mean, self._deviation = own.mean(), own.std() or 1.0

    def scores(self, vectors: Values) -> Scores:
        scores: Scores = (self._outliers.scores(vectors) - self._mean) / self._deviation
        return scores
