"""Write the verdicts of the audit from the JSONs of `benchmarks.audit`."""

from collections.abc import Sequence

from benchmarks.record import Record
from benchmarks.report.markdown import table

HEAD = ("network", "draw", "target", "verdict", "", "scale", "p", "p without the target", "search, processor s")


def section(records: Sequence[Record]) -> list[str]:
    """Return all lines; none if there are no records."""
    if not records:
        return []
    right = sum(record["right"] for record in records)
    lines = ["", "## Is a network backdoored at all?", ""]
    lines += [f"`mmguard audit` at a level of 5 %: right {right} of {len(records)} times."]
    lines += ["The last p-value leaves the target class out: an alarm there would be a false one."]
    return [*lines, "", *table(HEAD, [row(record) for record in records])]


def row(record: Record) -> tuple[str, ...]:
    """Make the row of one network and draw."""
    targets = record["targets"]
    others = record.get("p_value_of_others") if targets else None
    return (
        record["network"],
        str(record["draw"]),
        "none" if not targets else ", ".join(map(str, targets)) if len(targets) < 3 else "every class",
        f"backdoored, target {record['suspect']}" if record["backdoored"] else "no sign of a backdoor",
        "right" if record["right"] else "miss" if targets else "false alarm",
        record["scale"],
        f"{record['p_value']:.2g}",
        "" if others is None else f"{others:.2g}",
        f"{record['search_seconds']:.0f}",
    )
