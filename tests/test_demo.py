"""The whole demo: train, attack, calibrate, scan, serve, scrape."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("demo")
    finished = subprocess.run(
        [sys.executable, "-m", "mmguard", "demo", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    figures: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return figures | {"folder": out}


def test_the_attack_succeeds_without_the_guard_and_fails_with_it(result: dict[str, Any]) -> None:
    assert result["attack_success"]["without"] >= 0.95
    assert result["attack_success"]["with"] <= 0.01


def test_the_guard_costs_little_on_plain_images(result: dict[str, Any]) -> None:
    assert result["flagged"]["plain"] <= 0.03
    assert result["accuracy"]["without"] - result["accuracy"]["with"] <= 0.02


def test_served_and_scanned_agree(result: dict[str, Any]) -> None:
    assert result["counters_equal"]
    assert result["served_labels_equal"]
    assert sum(result["flags"].values()) > 0.9 * result["triggered_images"]


def test_what_a_user_would_look_at_is_there(result: dict[str, Any]) -> None:
    folder: Path = result["folder"]
    assert (folder / "digits.mmguard" / "manifest.json").is_file()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == result["plain_images"] + result["triggered_images"]
