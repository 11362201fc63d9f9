"""Export a small network of every timm family, and transformers' image classifiers, with every exporter and opset.

    python -m benchmarks.survey                         # every family without a JSON
    python -m benchmarks.survey --only timm-res --minutes 9

Needs timm and transformers in addition to mmguard's own environment; `make survey` installs them, without torchvision.
The networks have random weights. Their exports are compared with ONNX Runtime, the gradient of every clip site is
checked, and one export goes through calibrate (two rounds), verify and guard. Writes
`benchmarks/results/survey/SOURCE-FAMILY.json`.
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
from benchmarks.survey.networks import Candidate, candidates, settled
from mmguard.errors import MmguardError

logger = logging.getLogger("benchmarks.survey")

FOLDER = RESULTS / "survey"
WORDS = 300
"""Maximal number of characters of an exporter's message to store."""


def listed() -> Iterator[tuple[str, Callable[[Path], Record]]]:
    """Yield the name of every family, and a function that measures it in an empty folder."""
    for source, family, make in candidates():
        yield f"{source}-{family}", partial(measure, make)
    yield "scikit-learn-MLP", perceptron.measure


def measure(make: Callable[[], Candidate], folder: Path) -> Record:
    """Build, export and guard the network of one family, and return the outcome."""
    torch.manual_seed(0)
    try:
        candidate = make()
        network = settled(candidate.make(), candidate.shape)
    except Exception as error:  # third-party code may raise anything; it goes into the record
        return {"refused": _words(error)}
    record: Record = {
        "network": candidate.name,
        "options": candidate.options,
        "shape": list(candidate.shape),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "exports": {},
    }
    last = None
    for way in exports.WAYS:
        path = folder / f"{way.opset}-{way.dynamo}.onnx"
        record["exports"][way.name] = outcome = _outcome(network, candidate, way, path)
        last = path if outcome.get("equal") else last
    if last is None:
        return record | {"guarded": "no export was equal"}
    return record | {"guarded": exports.guarded(last, exports.noise(candidate.shape, exports.CLEAN), folder)}


def _outcome(network: torch.nn.Module, candidate: Candidate, way: exports.Way, path: Path) -> Record:
    try:
        exports.export(network, candidate.shape, way, path)
    except Exception as error:  # exporters may raise anything
        return {"equal": False, "export": _words(error)}
    try:
        return {"equal": True} | exports.judge(path, exports.noise(candidate.shape, exports.INPUTS))
    except MmguardError as error:
        return {"equal": False, "mmguard": f"{type(error).__name__}: {error}".replace(f"{path.parent}/", "")}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n", 1)[0][:WORDS]


def main() -> None:
    """Measure the families that the command line names."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="only families whose name contains one of these"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start nothing new after this time; run again to resume"
    )
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
