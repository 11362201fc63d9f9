"""Track from layer to layer how near an input is to clean images of the class that it is decided as.

Mo, Zhang, Zhang, Luo, Sun, Hu, Gao and Xiang 2024, "Robust backdoor detection for deep learning via topological
evolution dynamics" (IEEE S&P), and Le, Zhang, Liao, Pan and Luo 2025, "TED++: submanifold-aware backdoor detection via
layerwise tubular-neighbourhood screening" (ICDM).
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.cifar import Images
from benchmarks.detectors.judging import Scores, flag_above
from benchmarks.detectors.neighbours import Nearest, Neighbourhood, Values
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.metrics import threshold_at
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

PUBLISHED = Published(
    source="Le et al. 2025, the authors' poster, BadNets; the mean over its nine attacks is 0.86",
    setting="CIFAR-10, ResNet-18, 20 clean images per class",
    figures={"auroc": 0.95},
    from_memory=False,
)
PUBLISHED_TUBE = Published(
    source="Le et al. 2025, the authors' poster, BadNets; the mean over its nine attacks is 0.96",
    setting="CIFAR-10, ResNet-18, 5 clean images per class",
    figures={"auroc": 0.99},
    from_memory=False,
)


@dataclass(frozen=True)
class Ted:
    """How unusual the ranks of an input are among those of D, over all layers; larger is more suspicious.

    Source: the ranks of Mo et al. 2024: in each layer, the images of D are sorted by distance to the input, and the
    rank is the place of the first image with the input's decision. TED++ (Le et al. 2025) gives the worst rank to an
    input outside of its class's tube: if the distance to that image is above a radius, which is the distance from that
    image to its neighbour number `tube` * m of the m images of its class. Layers are those of the authors' release:
    convolutions larger than 1x1, ReLUs and linear layers. The outlier detector on the ranks of D is PyOD's PCA detector
    with two components, as in that release, and its threshold is the 1 - theta quantile of the scores of D.

    Adapted: the ranks of an image of D are those among the other images. All of D is used, also images that the network
    gets wrong. Every class has images in D, so the rule of TED++ for classes without any is left out.

    Attributes:
        tube: share of the class, in (0, 1]; None is TED without tubes.
        components: components of the PCA.
        theta: share of D that may be flagged, in (0, 1).
        per_class: clean images per class.
        forwards: forward passes per input: only the classification. The distances to D take longer than that.
    """

    tube: float | None = None
    components: int = 2
    theta: float = THETA
    per_class: int = 20
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Fit the outlier detector to D, without labels; `seed` is not used. Scores are positive, without unit."""
        neighbourhood = Neighbourhood(suspect, clean.x)
        radii = None if self.tube is None else neighbourhood.radii(self.tube)
        own = screened(neighbourhood.of_own(), radii)
        outliers = PcaOutliers(own, self.components)

        def score(x: Images) -> Scores:
            return outliers.scores(screened(neighbourhood.of_others(x), radii))

        return flag_above(score, threshold_at(outliers.scores(own), self.theta))


def screened(nearest: Nearest, radii: Values | None) -> Values:
    """Return the ranks (N, L), with the worst rank for inputs outside of the tubes with these radii (n, L)."""
    if radii is None:
        return nearest.ranks
    layers = np.arange(radii.shape[1])
    return np.where(nearest.distances > radii[nearest.indices, layers], len(radii) - 1, nearest.ranks)


class PcaOutliers:
    """The PCA detector of PyOD: far from the main directions of the data, weighted by their share of the variance.

    The score is the sum over components of the distance between the standardised vector and the component's unit
    vector, divided by the component's share of the variance. Components without variance are left out.
    """

    def __init__(self, vectors: Values, components: int, weights: Values | None = None) -> None:
        """Fit to vectors (n, L), n >= 2; after standardisation, they are multiplied by `weights` (L,)."""
        self._mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
        # A layer in which all of D is equal keeps its unit, so that any other value stands out.
        self._scale = (1.0 if weights is None else weights) / np.where(deviation > 0, deviation, 1)
        standardised = (vectors - self._mean) * self._scale
        _, singular, directions = np.linalg.svd(standardised, full_matrices=False)
        shares = singular**2 / max(float((singular**2).sum()), np.finfo(np.float64).tiny)
        kept = np.flatnonzero(shares > np.finfo(np.float64).eps)[:components]
        self._shares, self._directions = shares[kept], directions[kept]
        # The sign of a singular vector is arbitrary, but distances to it depend on it.
        largest = np.abs(self._directions).argmax(axis=1)
        self._directions *= np.sign(self._directions[np.arange(len(kept)), largest])[:, None]

    def scores(self, vectors: Values) -> Scores:
        """Return the scores (N,) float64 of vectors (N, L)."""
        standardised = (vectors - self._mean) * self._scale
        scores: Scores = np.zeros(len(vectors))
        for direction, share in zip(self._directions, self._shares, strict=True):
            scores += np.linalg.norm(standardised - direction, axis=1) / share
        return scores
