"""Every code block of the documentation does what the page says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, RUN, SHOWN, Runner, blocks_of, commands, matches, pages

WITH_CODE = [page for page in pages() if any(block.language in RUN for block in blocks_of(page))]


@pytest.fixture
def runner(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Runner]:
    runner = Runner(workplace, capsys)
    yield runner
    runner.stop()
    sys.modules.pop("my_project", None)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page: Path, runner: Runner) -> None:
    for block in blocks_of(page):
        if block.language in RUN:
            runner.run(block)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_names_its_language(page: Path) -> None:
    unknown = {block.line: block.language for block in blocks_of(page) if block.language not in (*RUN, *SHOWN)}
    assert not unknown
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0


def test_there_are_many_blocks() -> None:
    assert sum(block.language in RUN for page in pages() for block in blocks_of(page)) >= 20


def test_a_command_goes_on_over_lines_and_has_the_output_below_it() -> None:
    text = "$ mmguard scan a \\\n    b\none\ntwo\n$ curl x -d '{\n  1}'\n"
    assert commands(text) == [("mmguard scan a b", "one\ntwo"), ("curl x -d '{ 1}'", "")]


def test_documented_output_may_leave_out_what_differs() -> None:
    assert matches('{"input": "a.png", … "flagged": true', 'x\n{"input": "a.png", "label": 3,\n "flagged": true}')
    assert not matches("12 flagged", "13 flagged")
