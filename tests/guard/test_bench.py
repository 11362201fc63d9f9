"""What `bench` reports; how fast anything is does not matter here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.cli.main import main
from mmguard.errors import InputError, OptionError
from mmguard.guard import Guard, Policy
from mmguard.guard.bench import BLOCKS, MAX_INPUTS, bench
from tests.bundles import Array, clean_inputs
from tests.guard.wrapping.endings import write_evidence_bundle

X = clean_inputs(50, seed=7)
QUICK: dict[str, Any] = {"seconds": 0.02, "threads": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evidence_bundle(tmp_path_factory.mktemp("bench") / "b")


def test_each_batch_size_is_timed_with_each_screen(bundle: Path) -> None:
    found = bench(bundle, X, batches=(1, 60), screens=(0.1, 0.0), **QUICK)
    assert (found.name, found.provider, found.threads, found.inputs) == ("tiny", "CPUExecutionProvider", 1, 50)
    assert [(each.batch, each.screen) for each in found.timings] == [(1, 0.1), (1, 0), (60, 0.1), (60, 0)]
    for each in found.timings:
        low, high = each.ratio_quartiles
        assert 0 < low <= each.ratio <= high
        assert 0 < each.guarded_ms <= each.guarded_p99_ms
        assert each.runs >= BLOCKS
        assert each.guarded_per_second > 0


def test_the_share_of_inputs_that_the_clipped_network_sees(bundle: Path) -> None:
    _, screened, both = (
        each.held_back for each in bench(bundle, X, batches=(50,), screens=(1.0, 0.1, 0), **QUICK).timings
    )
    with Guard(bundle, policy=Policy(screen=0.1), registry=None, threads=1) as guard:
        expected = (guard(X).clipped_labels >= 0).mean()
    assert both == 1
    assert screened == pytest.approx(expected), "a batch has all inputs once, from a random start"


def test_the_memory_that_the_model_and_the_guard_add(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100, 130, 175, 180])
    monkeypatch.setattr("mmguard.guard.bench._resident", lambda: next(readings))
    found = bench(bundle, X, batches=(1,), **QUICK)
    assert (found.session_bytes, found.guard_bytes) == (30, 45)
    monkeypatch.setattr("mmguard.guard.bench._resident", lambda: None)
    assert bench(bundle, X, batches=(1,), **QUICK).guard_bytes is None


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_inputs_are_read_as_by_scan(bundle: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"inputs{suffix}"
    many = np.concatenate([X] * 30)
    np.save(path, many) if suffix == ".npy" else np.savez(path, x=many)
    assert bench(bundle, path, batches=(2,), **QUICK).inputs == MAX_INPUTS < len(many)


@pytest.mark.parametrize(
    ("inputs", "options", "error"),
    [
        (X[:0], {}, InputError),
        (X, {"batches": (0,)}, OptionError),
        (X, {"batches": ()}, OptionError),
        (X, {"screens": ()}, OptionError),
        (X, {"screens": (2.0,)}, OptionError),
        (X, {"seconds": 0.0}, OptionError),
        (X, {"threads": -1}, OptionError),
        (X, {"threads": 0}, OptionError),
        (X, {"batches": (1.5,)}, OptionError),
        (np.full_like(X, np.nan), {}, InputError),
        (X[:, :2], {}, InputError),
    ],
)
def test_what_cannot_be_measured_is_refused(
    bundle: Path, inputs: Array, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        bench(bundle, inputs, **(QUICK | options))


def done(command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0


def test_the_command_prints_a_table_or_json(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", X)
    options = ["--batch", "1", "4", "--seconds", "0.02", "--threads", "1"]
    command = ["bench", str(bundle), str(tmp_path / "x.npy"), *options]
    done(command)
    table = capsys.readouterr().out
    head, names, *rows, legend = table.splitlines()
    assert legend.startswith("ratio: ")
    assert head.startswith("tiny: 50 inputs, CPUExecutionProvider, 1 thread, memory")
    assert names.split()[:4] == ["batch", "screen", "ratio", "quartiles"]
    assert [row.split()[:2] for row in rows] == [["1", "0.1"], ["1", "0"], ["4", "0.1"], ["4", "0"]]
    assert len({len(row) for row in (names, *rows)}) == 1
    done([*command, "--screen", "0", "--json"])
    raw = json.loads(capsys.readouterr().out)
    assert [(each["batch"], each["screen"]) for each in raw["timings"]] == [(1, 0), (4, 0)]
