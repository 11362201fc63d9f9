"""Write the table of docs/models.md from the JSONs of `benchmarks.survey`."""

from collections.abc import Sequence

from benchmarks.record import Record
from benchmarks.report.markdown import footnote, table


def section(records: Sequence[Record]) -> list[str]:
    """Return a table with one row per family, then a summary."""
    rows = [_row(record) for record in sorted(records, key=lambda record: record["family"])]
    ways = list(dict.fromkeys(way for record in records for way in record.get("exports", {})))
    passed = sum(record.get("guarded") == "yes" for record in records)
    head = ("family", "network", "operators", "clip sites", "files equal", "guarded")
    return [
        *table(head, rows),
        "",
        f"mmguard guards {passed} of {len(records)} families. Export variants: {'; '.join(ways)}. "
        f"{footnote(records[0])}",
    ]


def _row(record: Record) -> tuple[str, ...]:
    if "refused" in record:
        return record["family"], "", "", "", "", f"not built: {record['refused']}"
    found = list(record["exports"].values())
    equal = [each for each in found if each["equal"]]
    operators = sorted({name for each in equal for name in each["operators"]})
    sites = equal[-1]["sites"] if equal else []
    kinds = ", ".join(f"{sites.count(kind)} {kind}" for kind in sorted(set(sites)))
    written = [each for each in found if "export" not in each]
    dead = sum(len(each["dead_sites"]) for each in equal)
    files = f"{len(equal)} of {len(written)}" + (f"; {dead} sites without a gradient" if dead else "")
    reasons = {each["mmguard"] for each in written if not each["equal"]}
    verdict = "; ".join([record["guarded"], *sorted(reasons)])
    return record["family"], record["network"], f"{len(operators)}", kinds, files, _short(verdict)


def _short(text: str) -> str:
    line = text.replace("\n", " ").replace("|", "/")
    return line if len(line) < 200 else f"{line[:200]} …"
