"""Error rates: what a number of flags among clean inputs says of the level."""

CHANCE = 0.001
"""Probability at which a number of improbable inputs is too large for chance."""


def unseen_rate(n: int) -> float:
    """The largest rate, at 95 %, of what none of n inputs showed (Clopper and Pearson's upper bound at 0 of n)."""
    return 1 - float(0.025 ** (1 / n))


def most_by_chance(inputs: int, level: float, n: int) -> int:
    """Of so many clean inputs, the most with a p-value of at most `level`, but once in a thousand times.

    The number is beta-binomial: a level that is known from n samples is as uncertain as a share seen in n samples.
    """
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import betabinom

    return inputs if level >= 1 else int(betabinom.isf(CHANCE, inputs, level * n, (1 - level) * n))
