"""Write the JSON files of the benchmarks."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Record = dict[str, Any]


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a record atomically: the file is complete or does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    partial.replace(path)
