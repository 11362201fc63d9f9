"""What a calibration goes on from, as arrays and back."""

import numpy as np
import torch

from mmguard.calibrate.checkpoint.state import (
    RoundState,
    bounds_state,
    calibration_state,
    restore_bounds,
    restore_calibration,
)
from mmguard.types import Calibration


def moved(position: torch.nn.Parameter, optimiser: torch.optim.Adam, steps: int) -> list[float]:
    """Where a position is after each step towards 0."""
    path = []
    for _ in range(steps):
        optimiser.zero_grad()
        position.square().sum().backward()
        optimiser.step()
        path.append(position.item())
    return path


def made(rate: float = 0.1) -> tuple[torch.nn.Parameter, torch.optim.Adam]:
    position, idle = torch.nn.Parameter(torch.ones(1, 1)), torch.nn.Parameter(torch.ones(3))
    return position, torch.optim.Adam([idle, position], lr=rate)


def test_the_optimiser_goes_on_with_its_moments_and_its_rate() -> None:
    position, optimiser = made()
    moved(position, optimiser, 3)
    optimiser.param_groups[0]["lr"] = 0.05
    state = bounds_state(optimiser)
    assert "0/step" not in state, "the idle one never had a gradient"
    further = moved(position, optimiser, 3)
    assert state["1/position"].item() != position.item(), "a copy"
    other, fresh = made(rate=7.0)
    restore_bounds(fresh, state)
    assert moved(other, fresh, 3) == further


def test_progress_and_a_finished_calibration_survive() -> None:
    progress = RoundState(0.1, 3, 1 / 3, True)
    restored = RoundState.restore(progress.state())
    assert restored == progress
    assert isinstance(restored.converged, bool)
    logits = np.ones((2, 3), np.float32)
    learned = Calibration({"bounds/odd": np.ones((4, 1, 1), np.float32)}, logits, logits, logits, 5, True)
    again = restore_calibration(calibration_state(learned))
    assert (again.rounds, again.converged) == (5, True)
    assert set(again.bounds) == {"bounds/odd"}
    np.testing.assert_array_equal(again.held_out_logits, logits)
