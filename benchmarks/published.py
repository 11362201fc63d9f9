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
        from_memory: True where the paper was not at hand when the figures were written down.
    """

    source: str
    setting: str
    figures: dict[str, float]
    from_memory: bool
