"""Write what the screen holds back and loses, and what the guard costs with it.

The sources are the JSONs of `benchmarks.screening` and `benchmarks.guard_cost`.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from benchmarks.record import Record
from benchmarks.report.markdown import percent, table


def screening(records: Sequence[Record]) -> list[str]:
    """Return the lines on the screen at each level; none if there are no records."""
    if not records:
        return []
    by_network = defaultdict(list)
    for record in records:
        by_network[record["network"]].append(record["levels"])
    levels = list(records[0]["levels"])
    caught, clean = [], []
    for name, draws in sorted(by_network.items()):
        if "true_positive_rate" in draws[0][levels[0]]:
            rates = (percent(mean(each[level]["true_positive_rate"] for each in draws)) for level in levels)
            caught.append((name, str(len(draws)), *rates))
        shares = (percent(mean(each[level]["held_back"] for each in draws)) for level in levels)
        clean.append((name, str(len(draws)), *shares))
    head = ("network", "draws", *("no screen" if float(level) == 0 else f"τ = {level}" for level in levels))
    return [
        "",
        "## The screen",
        "",
        "Share of winning triggered inputs that the guard flags at its default θ, by the level τ of the screen; means "
        "over draws of the calibration set.",
        "",
        *table(head, caught),
        "",
        "Share of unseen clean inputs on which the clipped network runs:",
        "",
        *table(head, clean),
    ]


def guard_cost(record: Record | None) -> list[str]:
    """Return the lines on the time of the guard; none if it was not measured."""
    if record is None:
        return []
    rows = []
    for each in record["networks"]:
        timings = each["bench"]["timings"]
        for screen in dict.fromkeys(timing["screen"] for timing in timings):
            own = [timing for timing in timings if timing["screen"] == screen]
            rows.append((each["network"], "no screen" if screen == 0 else f"τ = {screen:g}", *map(_ratio, own)))
    batches = dict.fromkeys(timing["batch"] for timing in record["networks"][0]["bench"]["timings"])
    head = ("network", "screen", *(f"batch {batch}" for batch in batches))
    words = (
        "Time of the guard, divided by the time of the model alone, on clean inputs: one core, one thread, the median "
        "over blocks of runs, and the quartiles."
    )
    return ["", "## What the guard costs", "", words, "", *table(head, rows)]


def _ratio(timing: Record) -> str:
    low, high = timing["ratio_quartiles"]
    return f"{timing['ratio']:.2f} ({low:.2f} to {high:.2f})"
