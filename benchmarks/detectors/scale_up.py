"""Test whether the decision stays the same when all pixels are multiplied.

Guo, Li, Chen, Guo, Sun and Liu 2023, "SCALE-UP: an efficient black-box input-level backdoor detection via analyzing
scaled prediction consistency" (ICLR).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.judging import Scores, flag_above
from benchmarks.detectors.protocol import Judge
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

PUBLISHED = Published(
    source="Guo et al. 2023, Table 1, BadNets; the mean over its six attacks is 0.933",
    setting="CIFAR-10, ResNet, attack success of at least 98 %, 100 clean images per class",
    figures={"auroc": 0.971},
    from_memory=True,
)
PUBLISHED_DATA_FREE = Published(
    source="Guo et al. 2023, Table 1, BadNets; the mean over its six attacks is 0.928",
    setting="CIFAR-10, ResNet, attack success of at least 98 %, no clean images",
    figures={"auroc": 0.971},
    from_memory=True,
)

Decide = Callable[[Images], Labels]


@dataclass(frozen=True)
class ScaleUp:
    """Scaled prediction consistency, SPC: the share of brightened copies with the same decision.

    Larger is more suspicious. Source: Guo et al. 2023, equation 2 (data-free) and equations 3 and 4 (data-limited: SPC
    is standardised by its mean and standard deviation over the clean images of the predicted class). Factors are those
    of section 4.2; pixels are clipped at white. An input is flagged if the score exceeds a threshold. They report AUROC
    and leave the threshold to the defender; 0.5 is the default of the toolbox that their group publishes, in both
    forms. It is not a false-positive rate, so theta is not used.

    Adapted: if all clean images of a class have the same SPC, the standard deviation over all of D replaces the zero,
    or 1 if that is zero too. A class without images in D gets mean and deviation of all of D. The noise that their
    code adds to inputs is in no equation, and is left out. Statistics are per class, as in equation 3; pooled over the
    classes, as in that toolbox, they would rank inputs like the data-free form.

    Attributes:
        data_limited: whether to standardise by D; if not, D is not used.
        factors: whole numbers that pixels are multiplied by.
        threshold: T, a share of copies in the data-free form, standard deviations in the data-limited form.
    """

    data_limited: bool = True
    factors: tuple[int, ...] = (3, 5, 7, 9, 11)
    threshold: float = 0.5

    @property
    def per_class(self) -> int:
        """100 clean images per class if D is used, else none."""
        return 100 if self.data_limited else 0

    @property
    def forwards(self) -> float:
        """One for each factor and one to classify."""
        return len(self.factors) + 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Compute the statistics of D in the data-limited form. `seed` is not used; scores have the unit of T."""

        def decide(x: Images) -> Labels:
            labels: Labels = suspect.logits(x).argmax(axis=1)
            return labels

        if not self.data_limited:
            return flag_above(lambda x: consistency(decide, x, self.factors)[0], self.threshold)
        classes = suspect.logits(clean.x[:1]).shape[1]
        mean, deviation = class_statistics(consistency(decide, clean.x, self.factors)[0], clean.y, classes)

        def score(x: Images) -> Scores:
            spc, labels = consistency(decide, x, self.factors)
            return (spc - mean[labels]) / deviation[labels]

        return flag_above(score, self.threshold)


def amplify(x: Images, factor: int) -> Images:
    """Multiply every pixel by a whole number, and clip to 255: uint8 of any shape."""
    return np.minimum(x.astype(np.uint32) * factor, 255).astype(np.uint8)


def consistency(decide: Decide, x: Images, factors: tuple[int, ...]) -> tuple[Scores, Labels]:
    """Return SPC (equation 2) and the decision for each image.

    Args:
        decide: maps images (N, 32, 32, 3) uint8 to decisions (N,) int64.
        x: (N, 32, 32, 3) uint8.
        factors: factors that pixels are multiplied by.

    Returns:
        The share of factors that do not change the decision, (N,) float64 in [0, 1], and the decisions (N,) int64.
    """
    labels = decide(x)
    kept = np.stack([decide(amplify(x, factor)) == labels for factor in factors])
    return kept.mean(axis=0, dtype=np.float64), labels


def class_statistics(spc: Scores, y: Labels, classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of SPC for each class (equation 3).

    Args:
        spc: (n,) float64, SPC of clean images.
        y: (n,) int64, labels of these images.
        classes: number of classes, K.

    Returns:
        Means and standard deviations, (K,) float64 each; deviations are positive.
    """
    groups = [spc[y == label] if (y == label).any() else spc for label in range(classes)]
    overall = spc.std() if _vary(spc) else 1.0
    deviations = [group.std() if _vary(group) else overall for group in groups]
    return np.array([group.mean() for group in groups]), np.array(deviations)


def _vary(spc: Scores) -> bool:
    # In floating point, the standard deviation of equal numbers is not always 0.
    return bool((spc != spc[0]).any())
