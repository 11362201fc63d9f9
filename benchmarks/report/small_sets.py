"""Clean inputs flagged where the clean set is small, from the JSON of `benchmarks.small_sets`."""

from benchmarks.record import Record
from benchmarks.report.markdown import table


def section(record: Record) -> list[str]:
    """All lines: for each shape and size of the clean set, by the null that is chosen and by the fit alone."""
    sizes = list(next(iter(record["shares"].values())))
    rows = [
        (name, *(f"{_percent(by_size[n]['auto'])} ({_percent(by_size[n]['gaussian'])})" for n in sizes))
        for name, by_size in record["shares"].items()
    ]
    return [
        "",
        "## Small clean sets",
        "",
        f"Clean inputs with p ≤ θ = {record['theta']:g}, %, by what clipping does to clean logits, which are simulated "
        f"(`clean_shapes.py`), and by the size n of the clean set. Means over {record['draws']} draws; in brackets, by "
        "the fitted Gaussian alone.",
        "",
        *table(("", *(f"n = {n}" for n in sizes)), rows),
    ]


def _percent(figure: Record) -> str:
    return f"{100 * figure['mean']:.2f}"
