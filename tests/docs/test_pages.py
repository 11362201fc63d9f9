"""The pages and the code say the same: figures, metrics, names, limits, links."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

import mmguard
from benchmarks.readme import FIGURES, filled
from mmguard.detection.rates import most_by_chance
from mmguard.guard.metrics import Collectors
from tests.docs.blocks import ROOT, blocks_of, matches, pages

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("document", FIGURES)
def test_figures_are_those_of_the_jsons(document: str) -> None:
    assert filled(document) == (ROOT / document).read_text(encoding="utf-8"), "run python -m benchmarks.readme"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    collectors = Collectors(CollectorRegistry())
    expected = {}
    for metric in vars(collectors).values():
        suffix = "_total" if metric._type == "counter" else ""
        labels = tuple(sorted(set(metric._labelnames) - {"model"}))
        expected[metric._name + suffix] = (metric._type, labels)
    documented = {}
    for line in (DOCS / "reference/metrics.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(mmguard_\w+)` \| (\w+) \| ([^|]*)\|", line):
            documented[match[1]] = (match[2], tuple(sorted(re.findall(r"`(\w+)`", match[3]))))
    assert documented == expected


def test_no_other_metric_is_named() -> None:
    known = set(re.findall(r"mmguard_\w+", (DOCS / "reference/metrics.md").read_text(encoding="utf-8")))
    names = ("label", "original_label", "flagged", "reason", "confidence", "logits", "activations")
    outputs = {f"mmguard_{name}" for name in names}
    for page in pages():
        found = set(re.findall(r"\bmmguard_[a-z_]+\b", page.read_text(encoding="utf-8")))
        assert found <= known | outputs, page


def test_the_alert_on_flags_is_above_what_clean_inputs_produce() -> None:
    page = DOCS / "how-to/counters.md"
    (rules,) = (yaml.safe_load(block.text) for block in blocks_of(page) if block.language == "yaml")
    expression = next(rule["expr"] for rule in rules["groups"][0]["rules"] if rule["alert"].startswith("MoreFlags"))
    match = re.search(r"> ([\d.]+) \* sum by \(model\) \(increase\(mmguard_inputs_total\[1h\]\)\) \+ (\d+)", expression)
    assert match is not None
    for inputs in (10, 100, 1000, 10_000, 100_000):
        assert float(match[1]) * inputs + int(match[2]) >= most_by_chance(inputs, 0.005, 500)


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    missing = [name for name in mmguard.__all__ if not re.search(rf"mmguard(\.\w+)*\.{name}\b", text)]
    assert not set(missing) - {"__version__"}


def test_every_link_leads_somewhere() -> None:
    for page in [*pages(), ROOT / "SECURITY.md"]:
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match[1]).resolve() if match[1] else page
            assert target.exists(), f"{page.name}: {match[0]}"
            if match[2] and target.suffix == ".md":
                assert match[2][1:] in anchors(target), f"{page.name}: {match[0]}"


def test_every_page_is_in_the_menu() -> None:
    menu = set(re.findall(r"^(?:.* <)?([\w/-]+)>?$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - menu == {"index"}


def test_the_citation_file_is_valid() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == mmguard.__version__
    assert {"message", "title", "authors"} <= citation.keys()
    paper = citation["references"][0]
    assert {"type", "title", "authors"} <= paper.keys()
    for page in (ROOT / "README.md", DOCS / "method.md"):
        assert paper["title"] in " ".join(page.read_text(encoding="utf-8").split())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_message_of_the_troubleshooting_page_is_one_of_mmguard() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    documented = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(documented) >= 25
    known = messages()
    unknown = [message for message in documented if not any(matches(message, each) for each in known)]
    assert not unknown, "mmguard has no such message any more; write today's"


def messages() -> list[str]:
    """The texts in mmguard's code, except docstrings, with `…` for what is filled in."""
    found = []
    for path in (ROOT / "mmguard").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
    return found
