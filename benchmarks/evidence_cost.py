"""Measure what reading the activations costs: the original network alone against its runtime graph with evidence.

    python -m benchmarks.evidence_cost

Both sessions run in one process on one core, in turn, so that a busy machine slows both. The cost does not depend on
what a network has learnt, so its weights are random. Writes `benchmarks/results/evidence-cost.json`.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks.environment import environment
from benchmarks.evaluate import export
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.training.networks import NETWORKS
from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.detection.evidence import ActivationEvidence
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.evidence.choose import choose_sites
from mmguard.exporter.evidence.pool import pooled_features
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from mmguard.exporter.sites.find import find_activations
from mmguard.exporter.trial_export import copy_original

PATH = RESULTS / "evidence-cost.json"
BATCHES = (1, 8, 32, 128)
INPUTS = 200
SECONDS = 8.0
"""How long each batch size is measured."""


def measure(network: str, seed: int = 0) -> Record:
    """Measure the cost for one architecture of `benchmarks.training.networks`."""
    torch.manual_seed(seed)
    x = np.random.default_rng(seed).normal(size=(INPUTS, 3, 32, 32)).astype(np.float32)
    with TemporaryDirectory() as folder:
        plain, with_distances = _write(network, x, Path(folder))
        sizes = {"original_bytes": plain.stat().st_size, "runtime_bytes": with_distances.stat().st_size}
        runs = {"plain": _session(plain, ["logits"]), "distances": _session(with_distances, ["logits", ACTIVATIONS])}
        ratios = {str(batch): _ratios(runs, x[:batch]) for batch in BATCHES}
    return {"network": network, "seed": seed, **sizes, "batches": ratios}


def _write(network: str, x: NDArray[np.float32], folder: Path) -> tuple[Path, Path]:
    """Write a network with random weights, and its runtime graph with evidence that is fitted to inputs x."""
    path = folder / "network.onnx"
    export(NETWORKS[network](10).eval(), path)
    classifier = read_classifier(path)
    activations = find_activations(classifier.model, classifier.logits_source.value)
    sites, features = pooled_features(classifier, choose_sites(activations), x)
    decisions = np.random.default_rng(0).integers(0, 10, len(x))
    evidence = ActivationEvidence.fit(sites, features, decisions, 10)
    bundle = folder / "bundle"
    bundle.mkdir()
    copy_original(classifier, bundle)
    (bundle / "clipped.onnx").write_bytes(b"")
    return path, bundle / write_runtime_graphs(bundle, classifier, evidence)["original"]


def _session(path: Path, names: Sequence[str]) -> Callable[[NDArray[np.float32]], Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(list(names), {"image": x})


def _ratios(runs: dict[str, Callable[[NDArray[np.float32]], Any]], x: NDArray[np.float32]) -> Record:
    """Run both in turn for `SECONDS`, and return the median ratio of neighbouring runs with its quartiles."""
    for run in runs.values():
        run(x)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run(x)
            seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds["distances"]) / np.array(seconds["plain"])
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "ratio": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "plain_ms": round(1000 * float(np.median(seconds["plain"])), 4),
        "runs": len(ratios),
    }


def main() -> None:
    """Measure the chosen architectures on one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=["resnet20", "resnet32", "resnet18"])
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [measure(network) for network in options.networks]
    write_json(PATH, {"networks": rows} | environment())


if __name__ == "__main__":
    main()
