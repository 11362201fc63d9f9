"""The tables on evidence say what their JSONs say."""

from typing import Any

from benchmarks.report.evidence import ablation, arrays, cost


def figures(auroc: float, caught: float) -> dict[str, Any]:
    return {"auroc": auroc, "true_positive_rate_at": {"0.005": caught}, "false_positive_rate": 0.004}


def test_each_subset_is_a_column() -> None:
    subsets = {"all": figures(0.99, 0.9), "only activation_distance": figures(0.5, 0.001)}
    clean = {"network": "a", "draw": 0, "subsets": {"all": {"false_positive_rate": 0.004}}}
    lines = ablation([{"network": "b", "draw": 0, "subsets": subsets}, clean])
    assert lines[-3] == "| network | all | only activation distance |"
    assert lines[-1] == "| b | 0.9900 / 90.0 % | 0.5000 / 0.10 % |"
    assert ablation([clean]) == []


def test_draws_of_a_network_are_averaged() -> None:
    def record(draw: int, caught: float, flagged: float) -> dict[str, Any]:
        at = {"mmguard": caught, "original margin": 0.25}
        return {
            "network": "tone",
            "draw": draw,
            "false_positive_rate": flagged,
            "true_positive_rate": 1.0,
            "auroc": {"mmguard": 0.9, "original margin": 0.8},
            "true_positive_rate_at": at,
        }

    lines = arrays(
        [record(0, 0.5, 0.02), record(1, 0.7, 0.04), {"network": "none", "draw": 0, "false_positive_rate": 0}]
    )
    assert lines[-2:] == [
        "| none | 1 |  |  |  |  | 0.0 % | 0.0 % |",
        "| tone | 2 | 0.9000 | 60.0 % | 25.0 % | 100.0 % | 3.0 % | 4.0 % |",
    ]
    assert arrays([]) == []


def test_the_cost_is_a_ratio_and_a_number_of_bytes() -> None:
    network = {"network": "n", "batches": {"1": {"ratio": 1.0347}}, "original_bytes": 1000, "runtime_bytes": 3500}
    assert cost({"networks": [network]})[-1] == "| n | 1.035 | 1,000 | 2,500 |"
    assert cost(None) == []
