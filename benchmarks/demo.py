"""Run `mmguard demo` as a user does, and store its final figures: `python -m benchmarks.demo`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.record import RESULTS, write_json


def main() -> None:
    """Run the demo and write `benchmarks/results/demo.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mmguard", "demo", "--out", folder, "--seed", str(seed)], check=True)
        seconds = time.perf_counter() - start
        result = json.loads((Path(folder) / "result.json").read_text())
    record = {"seed": seed, "seconds": round(seconds, 1)} | result | environment()
    write_json(RESULTS / "demo.json", record)


if __name__ == "__main__":
    main()
