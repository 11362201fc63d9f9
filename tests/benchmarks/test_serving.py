import gzip
import sys
from pathlib import Path

import pytest

from benchmarks import serving


def test_figures_are_quantiles_of_what_was_measured() -> None:
    expected = {"requests": 101, "p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}
    assert serving.figures([float(took) for took in range(100, -1, -1)]) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_is_measured_in_calm_and_in_storm(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUESTS", 3)
    with serving.serving(tiny_bundle) as server:
        calm = serving.calm(server, tiny_bundle)
        storm = serving.stormy(server, "tiny", gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    assert {name: each["requests"] for name, each in calm.items()} == dict.fromkeys(
        ["live", "infer_json", "infer_binary", "metrics"], 3
    )
    assert storm["statuses"] == [400]
    assert storm["server_peak_rss_mib"] > 10
    assert storm["live"]["requests"] >= 1
