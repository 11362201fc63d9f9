"""Figures that a method's own paper reports, to compare an implementation with its source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of one experiment.

    Attributes:
        source: paper, and its table or section.
        setting: data set, network, attack, and the data that the method got.
        figures: shares in [0, 1] by name, such as `attack_success` and `clean_accuracy` after the method, and
            `attack_success_before` and `clean_accuracy_before` without it. The parameter of a figure follows a slash:
            `true_positive_rate_at/0.01`.
        from_memory: whether the figures were written down without the paper at hand, and should be checked.
    """

    source: str
    setting: str
    figures: dict[str, float]
    from_memory: bool
