"""Test the entropy of predictions on superimposed images.

Gao, Xu, Wang, Chen, Ranasinghe and Nepal 2019, "STRIP: a defence against trojan attacks on deep neural networks"
(ACSAC).
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, ndtri

from benchmarks.cifar import Images
from benchmarks.detectors.judging import BATCH, Scores, flag_above
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Logits, Suspect

PUBLISHED = Published(
    source=(
        "Gao et al. 2019, abstract and Table 3; the authors' released notebook prints it, and entropies do not overlap"
    ),
    setting="CIFAR-10, six convolutions, an image added as trigger, false rejections set to 1 %, 2,000 inputs each",
    figures={"auroc": 1.0, "true_positive_rate_at/0.01": 1.0},
    from_memory=False,
)


@dataclass(frozen=True)
class Strip:
    """Minus the mean entropy of the predictions on the input plus each of N clean images; larger is more suspicious.

    Source: Gao et al. 2019, equations 2 to 4, with their N = 100 and their boundary: a normal distribution is fitted to
    the entropies of clean inputs, and an input below its theta quantile is flagged. They use 1 %; we use the theta of
    all benchmarks. Images are added with weight 1 each and not clipped, as in the authors' released notebook: the
    network gets values up to twice white, which no image file can hold, but which keep every trigger intact.

    Adapted: all inputs share one draw of overlays from D, so that a score only depends on its image; they draw anew for
    each input. The boundary is fitted on the same D, without the sum of an image with itself. If D has fewer than N
    images, all of them are overlays.

    Attributes:
        overlays: number of overlays, N, at least 2.
        theta: false-rejection rate of the boundary, in (0, 1).
        per_class: clean images per class; they used 2,000 clean inputs of any class for the boundary.
    """

    overlays: int = 100
    theta: float = THETA
    per_class: int = 200

    @property
    def forwards(self) -> float:
        """One for each overlay and one to classify."""
        return self.overlays + 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Draw overlays with `seed`, and fit the boundary. Scores are in bits, from -log2 K to 0."""
        count = min(self.overlays, len(clean.x))
        chosen = np.random.default_rng(seed).choice(len(clean.x), count, replace=False)
        overlays = clean.x[chosen]

        def score(x: Images) -> Scores:
            scores: Scores = -entropies(suspect, x, overlays).mean(axis=1)
            return scores

        return flag_above(score, -boundary(_clean_entropies(suspect, clean.x, chosen), self.theta))


def superimpose(x: Images, overlays: Images) -> NDArray[np.uint16]:
    """Add each overlay (M, 32, 32, 3) to each image (N, 32, 32, 3): (N, M, 32, 32, 3) uint16, up to 510."""
    return x[:, None].astype(np.uint16) + overlays


def entropy(logits: Logits) -> NDArray[np.float64]:
    """Return the Shannon entropy (N,) float64 of the softmax of logits (N, K), in bits (equation 2)."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    bits: NDArray[np.float64] = -(np.exp(log_probabilities) * log_probabilities).sum(axis=1) / np.log(2)
    return bits


def entropies(suspect: Suspect, x: Images, overlays: Images) -> NDArray[np.float64]:
    """Return entropies (N, M) float64 in bits of predictions on images (N, 32, 32, 3) plus overlays (M, 32, 32, 3)."""
    step = max(1, BATCH // len(overlays))
    sums = (superimpose(x[first : first + step], overlays) for first in range(0, len(x), step))
    # The sums are not images, but they are normalised like images, in float32 for any dtype.
    parts = [entropy(suspect.logits(cast(Images, each.reshape(-1, *x.shape[1:])))) for each in sums]
    return np.concatenate(parts).reshape(len(x), len(overlays))


def boundary(clean_entropies: NDArray[np.float64], theta: float) -> float:
    """Return the theta quantile, in bits, of the normal distribution with the largest likelihood for entropies (n,).

    It may be below 0, which no entropy is; then nothing is flagged.
    """
    return float(clean_entropies.mean() + clean_entropies.std() * ndtri(theta))


def _clean_entropies(suspect: Suspect, x: Images, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean entropy (n,) of each image of D; the images `chosen` are the overlays."""
    each = entropies(suspect, x, x[chosen])
    each[chosen, np.arange(len(chosen))] = np.nan  # an image plus itself is only brighter, and tests nothing
    mean: NDArray[np.float64] = np.nanmean(each, axis=1)
    return mean
