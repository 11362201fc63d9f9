"""The `mmguard` command: exit codes, what goes where, and no traceback for anything that a user may do."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmguard import Bundle, __version__
from mmguard.bundle.manifest import Manifest
from mmguard.calibrate.progress import AT_THE_START
from mmguard.cli.app import DONE, FAILED, FOUND, NO_VERDICT, WRONG_USE
from mmguard.cli.main import main
from mmguard.inputs.spec import Preprocessing
from tests.bundles import CLASSES, add_trigger, clean_inputs
from tests.networks import RESIDUAL, residual_inputs, write_class_folders, write_clean, write_text, write_tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mmguard(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; returns its exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        assert isinstance(exit_.value.code, int)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return exit_.value.code, out, err

    return run


def execute(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "mmguard", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def save(path: Path, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Path:
    np.save(path, x)
    return path


COMMANDS = ("calibrate", "audit", "inspect", "report", "verify", "scan", "serve", "demo")


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_lists_the_commands_and_the_exit_codes(words: list[str]) -> None:
    finished = execute(*words, COLUMNS="200")
    assert (finished.returncode, finished.stderr) == (DONE, "")
    assert (
        "Exit codes: 0 success, 1 failure, 2 incorrect usage, 3 triggers or a backdoor found, 4 audit without "
        "a verdict, 130 or 143 interrupted." in finished.stdout
    )
    for command in COMMANDS:
        assert command in finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(mmguard: Run, command: str) -> None:
    code, out, _ = mmguard(command, "--help")
    assert code == DONE
    assert f"mmguard {command}" in out


def test_the_version_is_the_packages(mmguard: Run) -> None:
    assert mmguard("--version")[:2] == (DONE, f"{__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["calibrate"],
        ["calibrate", "model.onnx", "clean", "--fast"],
        ["calibrate", "model.onnx", "clean", "--rounds", "many"],
        ["calibrate", "model.onnx", "clean", "--device", "tpu"],
        ["calibrate", "model.onnx", "clean", "--layout", "CHWN"],
        ["scan", "bundle"],
        ["scan", "bundle", "inputs", "--on-flag", "panic"],
        ["verify", "a", "b"],
    ],
)
def test_wrong_use_is_exit_code_2_with_a_word_on_standard_error(mmguard: Run, words: list[str]) -> None:
    code, out, err = mmguard(*words)
    assert (code, out) == (WRONG_USE, "")
    assert "Error" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "rounds must be a whole number of at least 1"),
        (["--theta", "2"], "theta must be a number above 0 and at most 1"),
        (["--seed", "-1"], "seed must be from 0"),
        (["--preset", "magic"], "preset must be one of default"),
        (["--size", "big"], "--size takes one length or HEIGHTxWIDTH"),
        (["--mean", "1", "2"], "mean and std must each be one number or three numbers, got 2 for mean and 1 for std"),
        (["--std", "0"], "std and scale must be positive"),
        (["--std", "nan"], "std and scale must be positive"),
        (["--mean", "nan"], "mean must be finite"),
        (["--mean", "inf"], "mean must be finite"),
        (["--crop", "0"], "--crop takes one length or HEIGHTxWIDTH"),
        (["--preprocess", "nowhere.json"], "--preprocess nowhere.json cannot be read"),
        (["--classes", "nowhere.txt"], "--classes nowhere.txt cannot be read"),
        (["--name", "/etc"], "cannot be used as the bundle's name"),
    ],
)
def test_options_without_sense_are_refused(mmguard: Run, tmp_path: Path, options: list[str], message: str) -> None:
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "clean.npz")
    code, out, err = mmguard("calibrate", model, clean, "--out", tmp_path / "out.mmguard", *options)
    assert (code, out) == (WRONG_USE, "")
    assert err.removeprefix(f"{AT_THE_START.task}\n").startswith("mmguard: ")
    assert message in err
    assert not (tmp_path / "out.mmguard").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["calibrate", "none.onnx", "none"],
        ["calibrate", "noise", "noise"],
        ["inspect", "none"],
        ["inspect", "noise"],
        ["verify", "."],
        ["scan", "none", "none"],
        ["scan", "BUNDLE", "none"],
        ["scan", "BUNDLE", "noise"],
        ["scan", "BUNDLE", "clean.npy", "--out", "no/such/folder/rows.jsonl"],
        ["serve", "none"],
    ],
)
def test_files_that_are_not_what_they_should_be_are_exit_code_1(
    mmguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    save(tmp_path / "clean.npy", clean_inputs(3))
    code, out, err = mmguard(*(tiny_bundle if word == "BUNDLE" else word for word in words))
    assert (code, out) == (FAILED, "")
    said = err.removeprefix(f"{AT_THE_START.task}\n")
    assert said.startswith("mmguard: ")
    assert len(said) > len("mmguard: ")


def test_calibrate_reads_images_as_its_options_say(mmguard: Run, tmp_path: Path) -> None:
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_class_folders(tmp_path / "clean", CLASSES)
    classes, out = tmp_path / "classes.txt", tmp_path / "out.mmguard"
    classes.write_text("cat\ndog\n\nship\n", encoding="utf-8")
    options = ["--mean", "-0.02", "0", "0.02", "--std", "1", "1.1", "0.9", "--size", "8x8", "--layout", "NCHW"]
    code, output, err = mmguard(
        *("calibrate", model, clean, "--out", out, "--rounds", 2, "--seed", 7, "--name", "pets", "--classes", classes),
        *(*options, "--theta", "0.01"),
    )
    assert code == DONE, err
    assert "bundle " in output
    assert "learning without fold 5 of 5; about" in err
    manifest = Bundle.open(out).manifest
    assert (manifest.name, manifest.classes, manifest.seed) == ("pets", CLASSES, 7)
    assert manifest.null is not None
    assert manifest.null.theta == 0.01
    assert manifest.input.preprocessing == Preprocessing("RGB", (8, 8), 1 / 255, (-0.02, 0.0, 0.02), (1.0, 1.1, 0.9))
    assert manifest.settings.rounds == 2


def test_calibrate_names_the_bundle_after_the_model(
    mmguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "models" / "tiny.onnx")
    write_clean(tmp_path / "clean.npz")
    assert mmguard("calibrate", "models/tiny.onnx", "clean.npz", "--rounds", 1)[0] == DONE
    assert Bundle.open("tiny.mmguard").manifest.name == "tiny"


def test_calibrate_skips_bad_images_only_where_it_may(mmguard: Run, tmp_path: Path) -> None:
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_class_folders(tmp_path / "clean", CLASSES)
    (clean / "cat" / "bad.png").write_bytes(b"no image")
    words = ["calibrate", model, clean, "--out", tmp_path / "out.mmguard", "--rounds", 1]
    code, _, err = mmguard(*words)
    assert code == FAILED
    assert "bad.png" in err
    code, _, err = mmguard(*words, "--skip-bad")
    assert code == DONE
    assert "120 clean inputs, 1 skipped" in err


def test_an_interrupt_is_no_traceback(mmguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmguard.cli.calibrate.PreprocessingOptions", interrupt)
    code, out, _ = mmguard("calibrate", tmp_path / "a.onnx", tmp_path)
    assert code == 130
    assert out == ""


def test_an_interrupted_calibration_says_how_to_go_on(
    mmguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "tiny.onnx")
    write_clean(tmp_path / "clean.npz")
    words = ["calibrate", "tiny.onnx", "clean.npz", "--rounds", 3]
    with monkeypatch.context() as patch:
        patch.setattr("mmguard.pipeline.write_bundle.check_export", lambda *_: sys.exit(143))
        code, out, err = mmguard(*words)
    assert (code, out) == (143, "")
    assert err.endswith(
        "interrupted while checking and writing the bundle; everything learned so far is saved: run the same "
        "command with --resume to continue\n"
    )
    code, _, err = mmguard(*words, "--resume", "--seed", 1)
    assert code == FAILED
    assert "differs in: seed (0, now 1)" in err
    assert "--resume to continue" not in err
    assert mmguard(*words, "--resume")[0] == DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.npz", "tiny.mmguard", "tiny.onnx"]


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_serving_on_no_thread_is_wrong_use(mmguard: Run, tiny_bundle: Path, threads: str) -> None:
    code, _, err = mmguard("serve", tiny_bundle, "--threads", threads, "--port", "0", "--metrics-port", "0")
    assert code == WRONG_USE
    assert f"threads must be at least 1, got {threads}" in err


@pytest.mark.parametrize("option", ["--max-request-mib", "--max-json-mib"])
def test_serving_no_bytes_is_wrong_use(mmguard: Run, tiny_bundle: Path, option: str) -> None:
    code, _, err = mmguard("serve", tiny_bundle, option, "0", "--port", "0", "--metrics-port", "0")
    assert code == WRONG_USE
    assert "must be an integer number of bytes and at least 1, got 0" in err


def test_inspect_shows_the_bundle(mmguard: Run, tiny_bundle: Path) -> None:
    code, out, _ = mmguard("inspect", tiny_bundle)
    assert code == DONE
    assert "tiny: input image (N, 3, 8, 8), 3 classes" in out
    assert "2 activations, 10 bounds" in out
    assert "unknown; the calibration set has no labels; the networks agree on" in out


def test_report_tells_where_the_page_is_and_opens_it(
    mmguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "out.mmguard"
    assert mmguard("calibrate", model, write_clean(tmp_path / "clean.npz"), "--out", out, "--rounds", 1)[0] == DONE
    opened: list[str] = []

    def open_once(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", open_once)
    assert mmguard("report", out) == (DONE, f"{out / 'report.html'}\n", "")
    assert opened == []
    assert mmguard("report", out, "--open")[0] == DONE
    assert opened == [(out / "report.html").as_uri()]
    code, _, err = mmguard("report", out, "--open")
    assert code == FAILED
    assert "no browser found" in err
    (out / "report.html").write_text("<p>all is well</p>")
    assert mmguard("report", out)[0] == FAILED


def test_a_bundle_may_have_no_report(mmguard: Run, tiny_bundle: Path) -> None:
    code, out, err = mmguard("report", tiny_bundle)
    assert (code, out) == (FAILED, "")
    assert "has no report.html" in err


def test_audit_names_the_class_of_the_backdoor(mmguard: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    for margins, code, verdict in (([9.0, 10.0, 11.0], DONE, "no sign"), ([9.0, 9.1, 40.0], FOUND, "target class")):
        folder = shutil.copytree(tiny_bundle, tmp_path / verdict)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["calibration"]["original_margins"] = {"sample": [5.0, 5.1, 5.2], "shared": margins}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        found, out, err = mmguard("audit", folder)
        assert found == code, err
        assert verdict in out
        assert code == DONE or f"target class {manifest['classes'][2]}" in out
        assert [float(line.split()[0]) for line in out.splitlines()[1:4]] == sorted(margins, reverse=True)


def test_an_audit_of_two_classes_is_judged_at_one_scale_or_says_why_not(mmguard: Run, tmp_path: Path) -> None:
    model, out = write_text(tmp_path, RESIDUAL), tmp_path / "two.mmguard"
    clean = save(tmp_path / "clean.npy", residual_inputs(60))
    code, _, err = mmguard("calibrate", model, clean, "--out", out, "--rounds", 1)
    assert code == DONE, err
    code, said, err = mmguard("audit", out)
    assert (code, err) == (DONE, "")
    assert said.startswith("scale orthogonal: ")
    assert "divided by the mean margin of the class's clean inputs" in said
    manifest = json.loads((out / "manifest.json").read_text())
    for margins in ("original_margins", "clipped_margins"):
        del manifest["calibration"][margins]["orthogonal"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    code, said, err = mmguard("audit", out)
    assert (code, err) == (NO_VERDICT, "")
    assert said.startswith("no verdict: with 2 classes, only the scale orthogonal of the search can be judged")
    shown = " ".join(mmguard("audit", "--help")[1].replace("│", "").split())
    assert "Exits with code 4 if there is no verdict" in shown


def test_an_audit_short_of_time_says_so_everywhere(mmguard: Run, tmp_path: Path) -> None:
    model, out = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "out.mmguard"
    words = ["calibrate", model, write_clean(tmp_path / "clean.npz"), "--out", out, "--rounds", 1]
    code, said, err = mmguard(*words, "--audit-minutes", 1e-9)
    assert code == DONE, err
    assert "are too few for any of the audit's search, so the audit has no verdict; on this machine, it needs" in err
    assert "not searched (too few --audit-minutes)" in said
    code, said, err = mmguard("audit", out)
    assert (code, err) == (NO_VERDICT, "")
    assert "with more --audit-minutes" in said
    assert "the time was too short" in (out / "report.html").read_text()
    assert mmguard(*words, "--audit-minutes", 0)[0] == WRONG_USE


def test_no_audit_leaves_the_search_out_and_every_command_copes(mmguard: Run, tmp_path: Path) -> None:
    model, out = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "out.mmguard"
    words = ["calibrate", model, write_clean(tmp_path / "clean.npz"), "--out", out, "--rounds", 1, "--no-audit"]
    code, said, err = mmguard(*words)
    assert code == DONE, err
    assert "searching for the largest margins" not in err
    assert "margins     not searched (--no-audit)" in said
    assert Bundle.open(out).manifest.calibration.original_margins == {}
    assert mmguard("verify", out)[0] == mmguard("inspect", out)[0] == mmguard("inspect", out, "--json")[0] == DONE
    assert mmguard("report", out)[0] == DONE
    code, said, err = mmguard("audit", out)
    assert (code, err) == (NO_VERDICT, "")
    assert "calibrated with --no-audit; to audit the model, calibrate it again without that option" in said
    inputs = save(tmp_path / "some.npy", clean_inputs(5))
    assert mmguard("scan", out, inputs)[0] == DONE


def test_inspect_can_print_json(mmguard: Run, tiny_bundle: Path) -> None:
    code, out, err = mmguard("inspect", tiny_bundle, "--json")
    assert (code, err) == (DONE, "")
    assert json.loads(out)["name"] == "tiny"
    assert Manifest.from_json(out).classes == CLASSES


def test_output_survives_a_narrow_encoding(tiny_bundle: Path) -> None:
    finished = execute("inspect", tiny_bundle, PYTHONIOENCODING="ascii")
    assert (finished.returncode, finished.stderr) == (DONE, "")
    assert "clip sites" in finished.stdout


def test_verify_says_how_close_the_networks_are(mmguard: Run, tiny_bundle: Path) -> None:
    code, out, _ = mmguard("verify", tiny_bundle)
    assert code == DONE
    assert "every file matches the manifest" in out
    assert hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest() in out
    assert "both networks reproduce the stored logits on cpu" in out


def test_verify_refuses_a_changed_bundle(mmguard: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.mmguard"
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "clean.npz")
    assert mmguard("calibrate", model, clean, "--out", out, "--rounds", 1)[0] == DONE
    (out / "clipped.onnx").write_bytes((out / "original.onnx").read_bytes())
    code, output, err = mmguard("verify", out)
    assert (code, output) == (FAILED, "")
    assert "clipped.onnx" in err


@pytest.mark.parametrize(("triggered", "code"), [(False, DONE), (True, FOUND)])
@pytest.mark.parametrize("to_file", [False, True])
def test_scan_gives_a_json_line_an_input(
    mmguard: Run, tmp_path: Path, tiny_bundle: Path, triggered: bool, code: int, to_file: bool
) -> None:
    x = clean_inputs(30, seed=5)
    inputs = save(tmp_path / "suspect.npy", add_trigger(x) if triggered else x)
    rows_path = tmp_path / "rows.jsonl"
    got, out, err = mmguard("scan", tiny_bundle, inputs, *(["--out", rows_path] if to_file else []))
    assert got == code
    assert "30 inputs," in err
    if to_file:
        assert out == ""
        out = rows_path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["input"] for row in rows] == [str(i) for i in range(30)]
    assert sum(row["flagged"] for row in rows) == (30 if triggered else pytest.approx(0, abs=3))


def test_the_demo_leaves_a_folder_that_is_not_its_own(mmguard: Run, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "mine.png").write_bytes(b"precious")
    code, _, err = mmguard("demo", "--out", tmp_path)
    assert code == WRONG_USE
    assert "contains no earlier demo" in err
    assert (tmp_path / "clean" / "mine.png").read_bytes() == b"precious"
