"""One small network of every family of timm, and the image classifiers of transformers, by every exporter and opset.

    python -m benchmarks.survey                         # every family that has no JSON yet
    python -m benchmarks.survey --only timm-res --minutes 9

Needs timm and transformers beside mmguard's own environment: `make survey` installs them, without torchvision. Each
network has random weights. Its exports are compared with ONNX Runtime, every clip site's gradient is looked at, and one
export goes through calibrate (two rounds), verify and guard. Writes `benchmarks/results/survey/SOURCE-FAMILY.json`.
"""

import argparse
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.environment import DISTRIBUTIONS, environment
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.survey import exports, perceptron, torchvision_stand_in
from benchmarks.survey.networks import Subject, settled, subjects
from mmguard.errors import MmguardError

logger = logging.getLogger("benchmarks.survey")

FOLDER = RESULTS / "survey"
WORDS = 300
"""Characters of an exporter's message that are kept."""


def listed() -> Iterator[tuple[str, Callable[[Path], Record]]]:
    """Every family's name, and what measures it in an empty folder."""
    for source, family, make in subjects():
        yield f"{source}-{family}", partial(measure, make)
    yield "scikit-learn-MLP", perceptron.measure


def measure(make: Callable[[], Subject], folder: Path) -> Record:
    """What became of one family."""
    torch.manual_seed(0)
    try:
        subject = make()
        network = settled(subject.make(), subject.shape)
    except Exception as error:  # of code that is not ours: the record says what
        return {"refused": _words(error)}
    record: Record = {
        "network": subject.name,
        "options": subject.options,
        "shape": list(subject.shape),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "exports": {},
    }
    last = None
    for way in exports.WAYS:
        path = folder / f"{way.opset}-{way.dynamo}.onnx"
        record["exports"][way.name] = outcome = _outcome(network, subject, way, path)
        last = path if outcome.get("equal") else last
    if last is None:
        return record | {"guarded": "no export was equal"}
    return record | {"guarded": exports.guarded(last, exports.noise(subject.shape, exports.CLEAN), folder)}


def _outcome(network: torch.nn.Module, subject: Subject, way: exports.Way, path: Path) -> Record:
    try:
        exports.export(network, subject.shape, way, path)
    except Exception as error:  # exporters raise what they like
        return {"equal": False, "export": _words(error)}
    try:
        return {"equal": True} | exports.judge(path, exports.noise(subject.shape, exports.INPUTS))
    except MmguardError as error:
        return {"equal": False, "mmguard": f"{type(error).__name__}: {error}".replace(f"{path.parent}/", "")}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n", 1)[0][:WORDS]


def main() -> None:
    """Entry point."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="families with one of these in their name"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so many; run again then")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    torchvision_stand_in.install()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, examine in listed():
        path, start = FOLDER / f"{name}.json", time.monotonic()
        wanted = any(part in name for part in options.only)
        if path.is_file() or not wanted or start > deadline:
            continue
        with tempfile.TemporaryDirectory() as folder:
            record = examine(Path(folder))
        used = environment((*DISTRIBUTIONS, "timm", "transformers", "skl2onnx"))
        write_json(path, {"family": name, "seed": 0} | record | used)
        logger.info("%s: %.0f s, %s", name, time.monotonic() - start, record.get("guarded", "refused"))


if __name__ == "__main__":
    main()
