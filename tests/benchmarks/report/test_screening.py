"""The tables on the screen say what their JSONs say."""

from typing import Any

from benchmarks.report.screening import guard_cost, screening


def level(held_back: float, caught: float | None) -> dict[str, Any]:
    return {"held_back": held_back} | ({} if caught is None else {"true_positive_rate": caught})


def test_a_network_is_a_row_and_a_level_a_column() -> None:
    records = [
        {"network": "a", "draw": draw, "levels": {"0.0": level(1, 0.9), "0.1": level(0.1 * draw, 0.5 + 0.1 * draw)}}
        for draw in (1, 2)
    ]
    clean = {"network": "none", "draw": 0, "levels": {"0.0": level(1, None), "0.1": level(0.08, None)}}
    lines = screening([*records, clean])
    heads = [i for i, line in enumerate(lines) if line == "| network | draws | no screen | τ = 0.1 |"]
    assert lines[heads[0] + 2] == "| a | 2 | 90.0 % | 65.0 % |"
    assert lines[heads[1] + 2 :] == ["| a | 2 | 100.0 % | 15.0 % |", "| none | 1 | 100.0 % | 8.0 % |"]
    assert screening([]) == []


def test_each_screen_of_a_network_is_a_row() -> None:
    timings = [
        {"batch": batch, "screen": screen, "ratio": ratio, "ratio_quartiles": [ratio - 0.01, ratio + 0.02]}
        for screen, ratio in ((0.1, 1.25), (0.0, 2.5))
        for batch in (1, 8)
    ]
    lines = guard_cost({"networks": [{"network": "n", "bench": {"timings": timings}}]})
    assert lines[-4] == "| network | screen | batch 1 | batch 8 |"
    assert lines[-2:] == [
        "| n | τ = 0.1 | 1.25 (1.24 to 1.27) | 1.25 (1.24 to 1.27) |",
        "| n | no screen | 2.50 (2.49 to 2.52) | 2.50 (2.49 to 2.52) |",
    ]
    assert guard_cost(None) == []
