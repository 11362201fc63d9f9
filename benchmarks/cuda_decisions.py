"""Does the guard decide on CUDA as it does on the CPU? Both sessions must be on the CUDA provider.

    python -m benchmarks.cuda_decisions BUNDLE IMAGES.npz

IMAGES.npz holds `x` (N, H, W, C) uint8. Writes `benchmarks/results/cuda-decisions.json`, or to `--out`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from mmguard import Decision, Guard
from mmguard.guard.sessions import PROVIDERS
from mmguard.images import normalise

RESULTS = Path(__file__).parent / "results"
BATCH = 256


def decide(bundle: Path, device: str, x: NDArray[np.float32]) -> tuple[list[Decision], list[list[str]], float]:
    """Decisions by batch, each session's providers, and seconds after one batch of warming up."""
    with Guard(bundle, providers=PROVIDERS[device], registry=None) as guard:
        providers = [n.session.get_providers() for n in (guard.networks.original, guard.networks.clipped)]
        guard(x[:BATCH])
        start = time.perf_counter()
        decisions = [guard(x[first : first + BATCH]) for first in range(0, len(x), BATCH)]
        return decisions, providers, time.perf_counter() - start


def joined(decisions: list[Decision], field: str) -> NDArray[Any]:
    """One field over all batches."""
    return np.concatenate([getattr(decision, field) for decision in decisions])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "cuda-decisions.json")
    options = parser.parse_args()
    with Guard(options.bundle, registry=None) as guard:
        preprocessing = guard.bundle.manifest.input.preprocessing
        assert preprocessing is not None, "a bundle calibrated on images"
    images = np.load(options.images)["x"]
    x = np.stack([normalise(image.astype(np.float32), preprocessing) for image in images])
    cpu, _, cpu_seconds = decide(options.bundle, "cpu", x)
    cuda, providers, cuda_seconds = decide(options.bundle, "cuda", x)
    result = {
        "inputs": len(x),
        "providers": providers,
        "equal": {
            field: int((joined(cpu, field) == joined(cuda, field)).sum())
            for field in ("original_labels", "clipped_labels", "labels", "flagged", "reasons")
        },
        "largest_gap_difference": float(np.abs(joined(cpu, "margin_gaps") - joined(cuda, "margin_gaps")).max()),
        "seconds": {"cpu": cpu_seconds, "cuda": cuda_seconds},
    } | environment()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
