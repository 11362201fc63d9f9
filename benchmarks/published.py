"""What a method's own paper reports, so that an implementation of it can be held against its source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of one experiment.

    Attributes:
        source: the paper, and the table or section in it.
        setting: data set, network, attack, and what the method was given.
        figures: shares in [0, 1] by name, such as `attack_success` and `clean_accuracy` after the method, and
            `attack_success_before` and `clean_accuracy_before` without it.
            Where a figure has a parameter, it follows a slash: `true_positive_rate_at/0.01`.
        from_memory: True where the figures were written down without the paper, and should be checked against it.
    """

    source: str
    setting: str
    figures: dict[str, float]
    from_memory: bool
