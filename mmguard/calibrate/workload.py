"""The workload of a calibration: how many inputs each task passes through the network, and how long one step takes.

The unit of work is the forward and backward pass of one input; a forward pass alone counts as `FORWARD`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.audit.search import Found, search_inputs
from mmguard.calibrate.checkpoint.state import State, below, prefixed
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.cross_fit import split_folds
from mmguard.calibrate.margin_ascent import autocast_logits
from mmguard.calibrate.progress import AUDIT, FORWARD, LEARNING, WRITING, Measured, Task
from mmguard.settings.settings import Settings

Array = npt.NDArray[np.float32]

AUDITED = {form: f"searching for the largest margins of the {form} network" for form in ("original", "clipped")}
"""Names of the audit's tasks."""
CHECKED = 3
"""Number of forward passes over D while the bundle is written. They check both networks and measure the clipping."""
FEW, SLOW, TRIES = 8, 0.5, 3
"""Number of inputs in the first timed steps; minimum duration of these steps, in seconds, below which all inputs are
timed instead; and number of tries."""


def tasks(settings: Settings, x: Array, classes: int, seed: int, known: int | None, state: State | None) -> list[Task]:
    """List the tasks that are left to do.

    Args:
        settings: settings of the calibration.
        x: (N, ...) float32, the clean inputs D.
        classes: number of classes K.
        seed: random seed of the split into folds.
        known: number of classes that the scale `orthogonal` of the audit searches; None if there is no audit.
        state: state of the checkpoint that the calibration continues from; None if the calibration starts from the
            beginning.

    Returns:
        The remaining tasks, in order.
    """
    left_out = [0, *map(len, split_folds(len(x), settings.folds, seed))]
    run, number = 0, 0
    if state is not None:
        number = settings.rounds if state["calibrator/converged"] else int(state["calibrator/number"])
        run = int(state["run"])
    learning = []
    for i, fold in list(enumerate(left_out))[run:]:
        name = f"learning without fold {i} of {len(left_out) - 1}" if i else "learning from all clean inputs"
        inputs = run_inputs(settings, len(x) - fold, classes, number if i == run else 0)
        learning.append(Task(LEARNING, name, LEARNING, inputs if i else inputs - FORWARD * len(x)))
    forms = [form for form in AUDITED if known is not None and found_margins(state, form) is None]
    search = search_inputs(x, classes, known or 0)
    return [
        *learning,
        *(Task(AUDIT, AUDITED[form], form, search) for form in forms),
        Task(WRITING, "checking and writing the bundle", WRITING, CHECKED * FORWARD * len(x)),
    ]


def found_margins(state: State | None, form: str) -> Found | None:
    """Return the result of the search on one network from a checkpoint.

    Args:
        state: state of the checkpoint; None if there is no checkpoint.
        form: `original` or `clipped`.

    Returns:
        The margins and shares, in the order in which they were stored; None if the checkpoint has none of this network.
    """
    margins, shares = (_ordered(below(f"{kind}/{form}/", state or {})) for kind in ("margins", "shares"))
    return Found(margins, {scale: float(share) for scale, share in shares.items()}) if shares else None


def with_margins(state: State | None, form: str, found: Found) -> State:
    """Add the result of the search on one network to the state of a checkpoint.

    Args:
        state: state of the checkpoint; None if there is no checkpoint.
        form: `original` or `clipped`.
        found: the result. The order of the scales is stored too, because safetensors does not preserve it.

    Returns:
        The state with the result added.
    """
    margins, shares = _numbered(found.margins), _numbered(found.shares)
    return {
        **(state or {}),
        **prefixed(f"margins/{form}/", margins),
        **prefixed(f"shares/{form}/", {name: np.asarray(share) for name, share in shares.items()}),
    }


def _numbered(by_scale: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{number}/{scale}": each for number, (scale, each) in enumerate(by_scale.items())}


def _ordered(numbered: State) -> State:
    return {name.split("/")[1]: numbered[name] for name in sorted(numbered)}


def run_inputs(settings: Settings, n: int, classes: int, done: int = 0) -> float:
    """Return the amount of work in one run of a calibrator, including the original network's logits.

    Args:
        settings: settings of the calibration.
        n: number of clean inputs.
        classes: number of classes K.
        done: number of rounds that are already finished.

    Returns:
        Number of inputs that pass forward and backward through the network.
    """
    rounds = settings.rounds - done
    # Three forward passes: two before the rounds, for the original logits and for the ranges of the activations, and
    # one after the rounds, for the clipped logits.
    passes = 3 * FORWARD * n
    if settings.penalty != "margins":
        return passes + rounds * n
    maximisers = classes * settings.maximisers_of(classes)
    batch = settings.batch_of(n)
    descent = n + -(-n // batch) * min(batch, maximisers)
    every = settings.renew_every or settings.rounds
    renewals = (settings.rounds - 1) // every - (max(done, 1) - 1) // every
    searches = (renewals + (not done)) * settings.first_steps + rounds * settings.warm_steps
    return passes + rounds * descent + searches * maximisers


def measured_steps(
    graph: DifferentiableGraph,
    axes: Mapping[str, int],
    x: Array,
    settings: Settings,
    device: str,
    clock: Callable[[], float],
) -> dict[str, Measured]:
    """Run and time one step of each kind of task.

    Args:
        graph: the network, on `device`.
        axes: channel axis of each clip site, by value name.
        x: (N, ...) float32, the clean inputs D.
        settings: settings of the calibration.
        device: torch device, such as `cpu` or `cuda`.
        clock: function that returns the number of seconds since a fixed point in time.

    Returns:
        One measurement for each kind of task.
    """
    first = torch.from_numpy(x[: settings.batch_of(len(x))]).to(device)
    whole = first[: inputs_per_pass(graph, first, len(first))]
    bounds = Bounds.alike(graph, axes, whole[:1], 1.0)

    def descend(batch: Tensor) -> None:
        searches = settings.penalty == "margins"
        logits = graph(batch, bounds()).float() if searches else autocast_logits(graph, bounds(), batch)
        _synchronise(torch.autograd.grad(logits.square().mean(), list(bounds.parameters()), allow_unused=True))

    def ascend(batch: Tensor, own: Mapping[str, Tensor] | None = None) -> None:
        some = batch.clone().requires_grad_()
        _synchronise(torch.autograd.grad(autocast_logits(graph, own, some).sum(), some))

    @torch.no_grad()
    def check(batch: Tensor) -> None:
        _synchronise([graph(batch, None)])

    steps: dict[str, tuple[Callable[[Tensor], None], float]] = {
        LEARNING: (descend, 1.0),
        "original": (ascend, 1.0),
        "clipped": (partial(ascend, own=bounds.fixed()), 1.0),
        WRITING: (check, FORWARD),
    }
    return {kind: _measured(step, whole, work, clock) for kind, (step, work) in steps.items()}


def _measured(step: Callable[[Tensor], None], whole: Tensor, work: float, clock: Callable[[], float]) -> Measured:
    """Return the fastest of several tries of a step.

    The fastest try is the best estimate, because warm-up and other programs can only add time. The step is run on a few
    inputs, or on all inputs if a few inputs take too little time. `work` is the amount of work per input.
    """

    def seconds(batch: Tensor) -> float:
        start = clock()
        step(batch)
        return clock() - start

    few = whole[:FEW]
    first = min(seconds(few) for _ in range(TRIES - 1))
    if first >= SLOW:
        return Measured(work * len(few), first)
    return Measured(work * len(whole), min(seconds(whole) for _ in range(TRIES)))


def _synchronise(tensors: Sequence[Tensor | None]) -> None:
    """Wait until a GPU has computed the tensors."""
    for tensor in tensors:
        if tensor is not None:
            float(tensor.flatten()[:1].sum())
