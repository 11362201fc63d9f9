"""What a calibration will do, counted in inputs, and what one step of each kind of its work takes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.audit.search import search_inputs
from mmguard.calibrate.checkpoint.state import State, below, prefixed
from mmguard.calibrate.graph.autocast import reduced
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.cross_fit import parts_of
from mmguard.calibrate.progress import AUDIT, FORWARD, LEARNING, WRITING, Measured, Task
from mmguard.settings.settings import Settings
from mmguard.types import FloatArray

Array = npt.NDArray[np.float32]

AUDITED = {form: f"searching the largest margins of the {form} network" for form in ("original", "clipped")}
CHECKED = 3
"""Forward passes of D while the bundle is written: both networks are checked on it, and what is clipped is measured."""
FEW, SLOW, TRIES = 8, 0.5, 3
"""Inputs of the first steps, the seconds from which these are enough to tell, and tries of whole steps otherwise."""


def tasks(settings: Settings, x: Array, classes: int, seed: int, audit: bool, state: State | None) -> list[Task]:
    """All that is left to do.

    Args:
        x: (N, ...) float32, D. classes: K. seed: of the folds.
        audit: whether the margins are searched.
        state: of the checkpoint that the calibration goes on from.
    """
    left_out = [0, *map(len, parts_of(len(x), settings.folds, seed))]
    run, number = 0, 0
    if state is not None:
        number = settings.rounds if state["calibrator/converged"] else int(state["calibrator/number"])
        run = int(state["run"])
    learning = []
    for i, part in list(enumerate(left_out))[run:]:
        name = f"learning without part {i} of {len(left_out) - 1}" if i else "learning from all clean inputs"
        done = number if i == run else 0
        learning.append(Task(LEARNING, name, LEARNING, run_inputs(settings, len(x) - part, classes, done)))
    forms = [form for form in AUDITED if audit and not found_margins(state, form)]
    search = search_inputs(x, classes)
    return [
        *learning,
        *(Task(AUDIT, AUDITED[form], form, search) for form in forms),
        Task(WRITING, "checking and writing the bundle", WRITING, CHECKED * FORWARD * len(x)),
    ]


def found_margins(state: State | None, form: str) -> State:
    """By scale, the margins of the original or the clipped network that a checkpoint holds; none if it holds none."""
    found = below(f"margins/{form}/", state or {})
    return {name.split("/")[1]: found[name] for name in sorted(found)}


def with_margins(state: State | None, form: str, margins: Mapping[str, FloatArray]) -> State:
    """The state of a checkpoint with these margins in it, and their order, which a file does not keep."""
    numbered = {f"{number}/{scale}": by_class for number, (scale, by_class) in enumerate(margins.items())}
    return {**(state or {}), **prefixed(f"margins/{form}/", numbered)}


def run_inputs(settings: Settings, n: int, classes: int, done: int = 0) -> float:
    """Inputs of one run of a calibrator on n clean inputs, after the rounds that are done already."""
    rounds = settings.rounds - done
    passes = (
        3 * FORWARD * n
    )  # of D: its logits and the ranges of its activations, and in the end what bounds make of it
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
    """One step of each kind of task, measured.

    Args:
        graph: the network, on `device`. axes: channel axis by name of each clip site. x: (N, ...) float32, D.
        clock: seconds from any start.
    """
    first = torch.from_numpy(x[: settings.batch_of(len(x))]).to(device)
    whole = first[: inputs_per_pass(graph, first, len(first))]
    bounds = Bounds.alike(graph, axes, whole[:1], 1.0)

    def descend(batch: Tensor) -> None:
        with nullcontext() if settings.penalty == "margins" else reduced(batch.device):
            loss = graph(batch, bounds()).float().square().mean()
        _finish(torch.autograd.grad(loss, list(bounds.parameters()), allow_unused=True))

    def ascend(batch: Tensor, own: Mapping[str, Tensor] | None = None) -> None:
        some = batch.clone().requires_grad_()
        with reduced(batch.device):
            logits = graph(some, own)
        _finish(torch.autograd.grad(logits.float().sum(), some))

    @torch.no_grad()
    def check(batch: Tensor) -> None:
        _finish([graph(batch, None)])

    steps: dict[str, tuple[Callable[[Tensor], None], float]] = {
        LEARNING: (descend, 1.0),
        "original": (ascend, 1.0),
        "clipped": (partial(ascend, own=bounds.fixed()), 1.0),
        WRITING: (check, FORWARD),
    }
    return {kind: _measured(step, whole, work, clock) for kind, (step, work) in steps.items()}


def _measured(step: Callable[[Tensor], None], whole: Tensor, work: float, clock: Callable[[], float]) -> Measured:
    """The fastest of some tries, of a few inputs where these take long, else of all. `work`: of one input.

    Whatever else the machine does, and what comes with a first try, only adds to a try.
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


def _finish(tensors: "Sequence[Tensor | None]") -> None:
    """Wait for a GPU to have computed these."""
    for tensor in tensors:
        if tensor is not None:
            float(tensor.flatten()[:1].sum())
