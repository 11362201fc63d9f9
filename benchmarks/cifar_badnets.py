"""The main job at real size: train a backdoored CIFAR-10 network, calibrate a guard, and measure it on unseen images.

    python -m benchmarks.cifar_badnets            # trains once (some 10 minutes on two cores), calibrates, measures

Calibration sees 50 test images a class, written as PNG folders and given to the public command; everything is measured
on the 9,500 others. Writes `benchmarks/results/NAME.json`.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from benchmarks import cifar, train
from benchmarks.attacks import ATTACKS
from benchmarks.environment import environment
from benchmarks.metrics import auroc, flag_rates
from mmguard import Bundle, Decision, Guard
from mmguard.images import normalise
from mmguard.stats import GaussianNull, margin

logger = logging.getLogger("benchmarks.cifar_badnets")

RESULTS = Path(__file__).parent / "results"
BATCH = 100
KEPT_IMAGES = 2000
"""Unseen images, clean and triggered each, kept in `images.npz` for checks on other machines."""


def write_clean(folder: Path, data: cifar.Cifar, rows: NDArray[np.int64]) -> None:
    """Write D as a user has it: `folder/<class>/<row>.png`."""
    for row in rows:
        path = folder / str(data.y_test[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.x_test[row]).save(path)


def calibrate(model: Path, clean: Path, bundle: Path, record: dict[str, object], preset: str, seed: int) -> float:
    """Run the public command; returns its wall seconds."""
    command = [sys.executable, "-m", "mmguard", "calibrate", str(model), str(clean), "--out", str(bundle)]
    for option in ("mean", "std"):
        command += [f"--{option}", *map(str, record[option])]  # type: ignore[call-overload]
    start = time.perf_counter()
    subprocess.run([*command, "--preset", preset, "--seed", str(seed)], check=True)
    return time.perf_counter() - start


def keep_images(path: Path, data: cifar.Cifar, rows: NDArray[np.int64], recipe: train.Recipe) -> None:
    """Write `x` (N, 32, 32, 3) uint8: unseen test images, as they are and then triggered."""
    x = data.x_test[rows[:KEPT_IMAGES]]
    np.savez_compressed(path, x=np.concatenate([x, ATTACKS[recipe.attack](recipe.target, recipe.rate).trigger(x)]))


def judge(guard: Guard, x: cifar.Images) -> tuple[Decision, NDArray[np.float32], dict[str, float]]:
    """Decisions on images (N, 32, 32, 3) uint8, the original's logits (N, K), and milliseconds an input."""
    preprocessing = guard.bundle.manifest.input.preprocessing
    assert preprocessing is not None, "calibrated on images"
    inputs = np.stack([normalise(image.astype(np.float32), preprocessing) for image in x])
    decisions, logits, seconds = [], [], {"without": 0.0, "with": 0.0}
    for first in range(0, len(inputs), BATCH):  # interleaved, so that both meet the same load of the machine
        batch, start = inputs[first : first + BATCH], time.perf_counter()
        decisions.append(guard(batch))
        middle = time.perf_counter()
        logits.append(guard.networks.original(batch).logits)
        seconds["with"] += middle - start
        seconds["without"] += time.perf_counter() - middle
    fields = Decision.__dataclass_fields__
    decision = Decision(**{name: np.concatenate([getattr(d, name) for d in decisions]) for name in fields})
    return decision, np.concatenate(logits), {who: 1000 * total / len(inputs) for who, total in seconds.items()}


def detection(guard: Guard, data: cifar.Cifar, rows: NDArray[np.int64], recipe: train.Recipe) -> dict[str, object]:
    """All figures on the test images that calibration never saw, clean and triggered."""
    attack = ATTACKS[recipe.attack](recipe.target, recipe.rate)
    x, y = data.x_test[rows], data.y_test[rows]
    victims = attack.goal(y) != y
    clean, clean_logits, milliseconds = judge(guard, x)
    triggered, triggered_logits, _ = judge(guard, attack.trigger(x[victims]))
    goal, truth = attack.goal(y)[victims], y[victims]
    false_flags = int(clean.flagged.sum())
    interval = binomtest(false_flags, len(y)).proportion_ci(method="exact")
    return {
        "clean_images": len(y),
        "triggered_images": len(truth),
        "auroc": {
            "margin_gap": auroc(clean.margin_gaps, triggered.margin_gaps),
            "original_margin": auroc(
                margin(clean_logits, clean.original_labels), margin(triggered_logits, triggered.original_labels)
            ),
        },
        "accuracy": {"without": share(clean.original_labels == y), "with": share(clean.labels == y)},
        "attack_success": {
            "without": share(triggered.original_labels == goal),
            "with": share(triggered.labels == goal),
        },
        "triggered_accuracy": {
            "without": share(triggered.original_labels == truth),
            "clipped_network": share(triggered.clipped_labels == truth),
            "with": share(triggered.labels == truth),
        },
        "false_positive_rate": flag_rates(clean),
        "false_positive_interval_95": [interval.low, interval.high],
        "true_positive_rate": flag_rates(triggered),
        "clean_disagreement": share(clean.original_labels != clean.clipped_labels),
        "milliseconds": {"batch": BATCH} | milliseconds,
    }


def plain_gaussian_rate(guard: Guard, data: cifar.Cifar, chosen: NDArray[np.int64], unseen: NDArray[np.int64]) -> float:
    """Share of unseen clean images that the paper's null, a Gaussian without the power transform, would flag."""
    fitted, _, _ = judge(guard, data.x_test[chosen])
    clean, _, _ = judge(guard, data.x_test[unseen])
    p_values = GaussianNull.fit(fitted.margin_gaps, power=1.0).p_values(clean.margin_gaps)
    return share(p_values <= guard.bundle.manifest.null.theta)


def artifact(bundle: Bundle, model: Path) -> dict[str, object]:
    """What `clipped.onnx` must be: one Min an activation, no negative bound, the input untouched, runnable alone."""
    graph = onnx.load(bundle.path / "clipped.onnx").graph
    operators = [node.op_type for node in graph.node]
    alone = "import sys, onnxruntime, numpy; s = onnxruntime.InferenceSession(sys.argv[1]); " + (
        "print(s.run(None, {s.get_inputs()[0].name: numpy.zeros((2, 3, 32, 32), 'float32')})[0].shape)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", alone, str(bundle.path / "clipped.onnx")], capture_output=True, text=True, check=True
    )
    return {
        "activations": operators.count("Relu"),
        "min_nodes": operators.count("Min"),
        "bounds": sum(bound.size for bound in bundle.bounds().values()),
        "smallest_bound": min(float(bound.min()) for bound in bundle.bounds().values()),
        "original_byte_for_byte": (bundle.path / "original.onnx").read_bytes() == model.read_bytes(),
        "runs_alone": ran.stdout.strip(),
    }


def share(outcomes: NDArray[np.bool_]) -> float:
    """Share of true outcomes."""
    return float(outcomes.mean())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the network")
    parser.add_argument("--draw", type=int, default=0, help="seed of the draw of D and of calibration")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--data-folder", type=Path, help="folder of unpack.py; default MMGUARD_DATA")
    return parser.parse_args()


def run(recipe: train.Recipe, options: argparse.Namespace) -> dict[str, object]:
    """Train where no network of this recipe is there yet, calibrate, measure; the record."""
    folder = cifar.CACHE / "networks" / recipe.name
    model, record_path = folder / f"{recipe.name}.onnx", folder / f"{recipe.name}.json"
    if not record_path.is_file():
        train.run(recipe, folder, options.data_folder, resume=True)
    record = json.loads(record_path.read_text())
    data = cifar.load(recipe.data, options.data_folder)
    chosen, unseen = cifar.calibration_split(data.y_test, seed=options.draw)
    clean, path = folder / f"clean-{options.draw}", folder / f"{options.preset}-{options.draw}.mmguard"
    write_clean(clean, data, chosen)
    seconds = calibrate(model, clean, path, record, options.preset, options.draw)
    keep_images(folder / "images.npz", data, unseen, recipe)
    bundle = Bundle.open(path)
    with Guard(bundle, registry=None) as guard:
        figures = detection(guard, data, unseen, recipe)
        figures["false_positive_rate_of_a_plain_gaussian"] = plain_gaussian_rate(guard, data, chosen, unseen)
    return {
        "network": record,
        "draw": options.draw,
        "preset": options.preset,
        "settings": bundle.manifest.settings,
        "calibration_seconds": round(seconds, 1),
        "calibration": asdict(bundle.manifest.calibration),
        "null": asdict(bundle.manifest.null),
        "detection": figures,
        "artifact": artifact(bundle, model),
    } | environment()


def main() -> None:
    """Entry point of `python -m benchmarks.cifar_badnets`."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    options = parse()
    recipe = train.Recipe(seed=options.seed)
    result = run(recipe, options)
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{recipe.name}-{options.preset}-draw{options.draw}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    logger.info("%s\n%s", out, json.dumps(result["detection"], indent=2))


if __name__ == "__main__":
    main()
