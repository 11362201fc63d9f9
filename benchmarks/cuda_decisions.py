"""Check that the guard decides on CUDA as it does on the CPU. Both sessions must use the CUDA provider.

    python -m benchmarks.cuda_decisions BUNDLE IMAGES.npz

IMAGES.npz holds `x` (N, H, W, C) uint8. Writes `benchmarks/results/cuda-decisions.json`, or to `--out`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.cifar import Images
from benchmarks.environment import environment
from benchmarks.guarded import BOTH, inputs, joined
from benchmarks.record import RESULTS, write_json
from mmguard import Decision, Guard
from mmguard.guard.sessions import PROVIDERS


def timed(bundle: Path, device: str, images: Images) -> tuple[Decision, list[list[str]], float]:
    """Return decisions, the providers of each session, and seconds, measured after one warm-up batch."""
    with Guard(bundle, providers=PROVIDERS[device], policy=BOTH, registry=None) as guard:
        providers = [n.session.get_providers() for n in (guard.networks.original, guard.networks.clipped)]
        batches = inputs(guard, images)
        guard(batches[0])
        start = time.perf_counter()
        decisions = [guard(batch) for batch in batches]
        return joined(decisions), providers, time.perf_counter() - start


def main() -> None:
    """Compare the decisions on both devices and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "cuda-decisions.json")
    options = parser.parse_args()
    images = np.load(options.images)["x"]
    cpu, _, cpu_seconds = timed(options.bundle, "cpu", images)
    cuda, providers, cuda_seconds = timed(options.bundle, "cuda", images)
    result = {
        "inputs": len(images),
        "providers": providers,
        "equal": {
            field: int((getattr(cpu, field) == getattr(cuda, field)).sum())
            for field in ("original_labels", "clipped_labels", "labels", "flagged", "reasons")
        },
        "largest_gap_difference": float(np.abs(cpu.margin_gaps - cuda.margin_gaps).max()),
        "seconds": {"cpu": cpu_seconds, "cuda": cuda_seconds},
    } | environment()
    write_json(options.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
