"""Bounds on error rates: how many small p-values chance explains, and the highest plausible rate of an unseen event."""

CHANCE = 0.001
"""Upper bound on the probability that clean inputs alone have more small p-values than `most_by_chance` returns."""


def unseen_rate(n: int) -> float:
    """Return an upper bound on the rate of an event that did not occur in any of n inputs.

    The bound is the upper end of the two-sided 95 % confidence interval of Clopper and Pearson (1934) for 0 events in n
    inputs.

    Args:
        n: number of inputs, at least 1.

    Returns:
        The largest plausible rate, in (0, 1).

    Example:
        >>> round(unseen_rate(100), 3)
        0.036
    """
    return 1 - float(0.025 ** (1 / n))


def most_by_chance(inputs: int, level: float, n: int) -> int:
    """Return the largest number of p-values ≤ `level` that can be attributed to chance if all inputs are clean.

    The number is modelled by a beta-binomial distribution, because the test's true level is uncertain: the null was
    fitted to only n inputs. The true level is assumed to be as uncertain as a proportion estimated from n inputs.

    Args:
        inputs: number of clean inputs that are tested.
        level: level of the test, in (0, 1].
        n: number of clean inputs to which the null was fitted.

    Returns:
        The number of p-values. At most 1 in 1,000 scans of clean inputs would have more such p-values.
    """
    # Imported here because it takes longer to load than everything else that serving needs.
    from scipy.stats import betabinom

    return inputs if level >= 1 else int(betabinom.isf(CHANCE, inputs, level * n, (1 - level) * n))
