"""Write how many clean inputs are flagged with small calibration sets, from the JSON of `benchmarks.small_sets`."""

from benchmarks.record import Record
from benchmarks.report.markdown import table


def section(record: Record) -> list[str]:
    """Return all lines: by distribution and size of the calibration set, for the chosen null and for the fit alone."""
    sizes = list(next(iter(record["shares"].values())))
    rows = [
        (name, *(f"{_percent(by_size[n]['auto'])} ({_percent(by_size[n]['gaussian'])})" for n in sizes))
        for name, by_size in record["shares"].items()
    ]
    return [
        "",
        "## Small calibration sets",
        "",
        f"Share of clean inputs with p ≤ θ = {record['theta']:g}, in per cent, for several simulated effects of "
        "clipping on clean logits (`clean_shapes.py`) and calibration sets of n inputs. Means over "
        f"{record['draws']} draws; in brackets, with the fitted Gaussian alone.",
        "",
        *table(("", *(f"n = {n}" for n in sizes)), rows),
    ]


def _percent(figure: Record) -> str:
    return f"{100 * figure['mean']:.2f}"
