"""Test whether confidence stays the same when the last batch norms are scaled.

Hou, Feng, Hua, Luo, Zhang and Li 2024, "IBD-PSC: input-level backdoor detection via parameter-oriented scaling
consistency" (ICML).
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.judging import Scores, flag_above
from benchmarks.detectors.protocol import Judge
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect, predict

PUBLISHED = Published(
    source="Hou et al. 2024, main table, BadNets; the mean over its seven attacks on CIFAR-10 is 0.992",
    setting="CIFAR-10, ResNet-18 (20 batch norms), 100 clean images",
    figures={"auroc": 1.0},
    from_memory=True,
)


@dataclass(frozen=True)
class IbdPsc:
    """Mean confidence of n scaled networks in the original network's decision (PSC); larger is more suspicious.

    Source: Hou et al. 2024, section 4, with the settings of section 5.1. In the network of depth i, the weights and
    biases of the last i batch norms are multiplied by omega (equation 2). The first depth k is the smallest at which
    more than a share xi of D is misclassified (equation 3, algorithm 1). PSC is the mean over depths k to k + n - 1
    (equation 4), and an input is flagged if PSC is above T. T is not a false-positive rate, so theta is not used.

    Adapted: depths beyond the number of batch norms are left out of the mean, so that the deepest network counts only
    once. If no depth reaches the error rate xi, k is the number of batch norms, as when the algorithm's loop ends. The
    last batch norms are those that run last, found by running the network, not by the order of registration.

    Attributes:
        omega: factor on weights and biases.
        networks: number of scaled networks, n.
        error_rate: xi, in (0, 1).
        threshold: T, in (0, 1).
        per_class: clean images per class; theirs were 100 in total.
    """

    omega: float = 1.5
    networks: int = 5
    error_rate: float = 0.6
    threshold: float = 0.9
    per_class: int = 10

    @property
    def forwards(self) -> float:
        """One for each scaled network and one to classify; fewer if k is close to the number of layers."""
        return self.networks + 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Choose the depths on the calibration set; `seed` is not used. Scores are probabilities."""
        module = suspect.module().to("cuda" if torch.cuda.is_available() else "cpu")
        order = normalisations(module)
        first = self.first_depth(module, order, clean)
        depths = range(first, min(first + self.networks, len(order) + 1))
        members = [scaled(module, order[-depth:], self.omega) for depth in depths]

        def score(x: Images) -> Scores:
            labels = predict(module, x).argmax(axis=1)
            psc: Scores = np.mean([_confidence(member, x, labels) for member in members], axis=0)
            return psc

        return flag_above(score, self.threshold)

    def first_depth(self, module: nn.Module, order: Sequence[str], clean: CleanSet) -> int:
        """Return k, the smallest number of last layers to scale for an error rate above xi, else all of them."""
        for depth in range(1, len(order) + 1):
            labels = predict(scaled(module, order[-depth:], self.omega), clean.x).argmax(axis=1)
            if (labels != clean.y).mean() > self.error_rate:
                return depth
        return len(order)


def normalisations(module: nn.Module) -> list[str]:
    """Return the names of the BatchNorm2d layers in the order in which they run on an image (1, 3, 32, 32).

    Raises:
        ValueError: no such layer runs.
    """
    order: list[str] = []

    def note(name: str) -> None:
        if name not in order:
            order.append(name)

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, layer in layers]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, 32, 32, device=next(module.parameters()).device))
    for handle in handles:
        handle.remove()
    if not order:
        raise ValueError("IBD-PSC scales BatchNorm2d layers, but the network has none; use another detector")
    return order


def scaled(module: nn.Module, layers: Sequence[str], omega: float) -> nn.Module:
    """Return a copy with weight and bias of the named layers multiplied by omega."""
    copy = deepcopy(module)
    with torch.no_grad():
        for name in layers:
            for parameter in copy.get_submodule(name).parameters(recurse=False):
                parameter.mul_(omega)
    return copy


def _confidence(module: nn.Module, x: Images, labels: Labels) -> Scores:
    probabilities: Scores = softmax(predict(module, x).astype(np.float64), axis=1)
    return probabilities[np.arange(len(x)), labels]
