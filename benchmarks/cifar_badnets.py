"""The main use case at real size: calibrate a guard for the zoo's BadNets network, and measure it on unseen images.

    python -m benchmarks.cifar_badnets            # calibrate (about five minutes on two cores) and measure

The calibration set has 50 test images per class, written as PNG folders and passed to `mmguard calibrate`. Everything
is measured on the other 9,500 images. Writes `benchmarks/results/NAME.json`.
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
from scipy.stats import binomtest

from benchmarks.cells import Bed, Cell
from benchmarks.cifar import Images
from benchmarks.environment import environment
from benchmarks.guarded import BATCH, BOTH, bundle_of, decide, inputs, joined
from benchmarks.metrics import auroc, flag_rates
from benchmarks.record import RESULTS, write_json
from mmguard import Bundle, Decision, Guard
from mmguard.detection.margins import margin
from mmguard.detection.null import GaussianNull

logger = logging.getLogger("benchmarks.cifar_badnets")

NETWORK = "cifar10-resnet20-badnets-seed0"
KEPT_IMAGES = 2000
"""Number of unseen images, clean and triggered each, that `images.npz` keeps for checks on other hardware."""


def keep_images(path: Path, bed: Bed) -> None:
    """Write `x` (N, 32, 32, 3) uint8: unseen test images, first clean and then triggered."""
    x = bed.x[:KEPT_IMAGES]
    np.savez_compressed(path, x=np.concatenate([x, bed.suspect.attack.trigger(x)]))


def judge(guard: Guard, x: Images) -> tuple[Decision, NDArray[np.float32], dict[str, float]]:
    """Return decisions on images (N, 32, 32, 3) uint8, the original network's logits (N, K), and ms per input."""
    batches = inputs(guard, x)
    decisions, logits, seconds = [], [], {"without": 0.0, "with": 0.0}
    for batch in batches:  # interleaved, so that both run under the same load
        start = time.perf_counter()
        decisions.append(guard(batch))
        middle = time.perf_counter()
        logits.append(guard.networks.original(batch).logits)
        seconds["with"] += middle - start
        seconds["without"] += time.perf_counter() - middle
    return joined(decisions), np.concatenate(logits), {who: 1000 * total / len(x) for who, total in seconds.items()}


def detection(guard: Guard, bed: Bed) -> dict[str, object]:
    """Measure everything on the test images outside the calibration set, clean and triggered."""
    attack, x, y = bed.suspect.attack, bed.x, bed.y
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
            "mmdf": auroc(-clean.p_values, -triggered.p_values),
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


def plain_gaussian_rate(guard: Guard, bed: Bed) -> float:
    """Return the share of unseen clean images that the paper's null, a Gaussian without power transform, would flag."""
    fitted, clean = decide(guard, bed.clean.x), decide(guard, bed.x)
    null = guard.bundle.manifest.null
    assert null is not None, "MMAC"
    p_values = GaussianNull.fit(fitted.margin_gaps, power=1.0).p_values(clean.margin_gaps)
    return share(p_values <= null.theta)


def artifact(bundle: Bundle, model: Path) -> dict[str, object]:
    """Check `clipped.onnx`: one Min per activation, no negative bound, the original unchanged, and it runs alone."""
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
    """Return the share of true outcomes."""
    return float(outcomes.mean())


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=int, default=0, help="seed of the calibration set's draw and of calibration")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, object]:
    """Calibrate and measure, and return the record."""
    bed = Bed.of(Cell(NETWORK, "MMDF", draw=options.draw), options.data_folder)
    bundle = bundle_of(bed.suspect, bed.clean, options.preset, None, options.draw)
    keep_images(bundle.path.with_suffix(".images.npz"), bed)
    with Guard(bundle, policy=BOTH, registry=None) as guard:
        figures = detection(guard, bed)
        figures["false_positive_rate_of_a_plain_gaussian"] = plain_gaussian_rate(guard, bed)
    return {
        "network": bed.suspect.record,
        "draw": options.draw,
        "preset": options.preset,
        "settings": bundle.manifest.settings.as_json(),
        "calibration_seconds": bundle.provenance()["seconds"],
        "calibration": asdict(bundle.manifest.calibration),
        "null": asdict(bundle.manifest)["null"],
        "detection": figures,
        "artifact": artifact(bundle, bed.suspect.path),
    } | environment()


def main() -> None:
    """Calibrate, measure and write the results."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    options = parse()
    result = run(options)
    out = RESULTS / f"{NETWORK}-{options.preset}-draw{options.draw}.json"
    write_json(out, result)
    logger.info("%s\n%s", out, json.dumps(result["detection"], indent=2))


if __name__ == "__main__":
    main()
