"""Measures what a guard costs: the same batches, in turn, through the model alone and through the guard."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.detection.screen import DEFAULT_SHARE
from mmguard.errors import InputError, OptionError
from mmguard.guard.guard import Guard
from mmguard.guard.networks import default_threads
from mmguard.guard.policy import Policy
from mmguard.guard.scan import read_inputs
from mmguard.guard.sessions import PROVIDERS, open_session, run
from mmguard.inputs.batch_checks import check_batch
from mmguard.inputs.spec import InputSpec
from mmguard.types import Decision

Batch = npt.NDArray[Any]

BLOCKS = 15
"""Number of blocks of runs. A ratio is the median over the blocks, because a block in which the machine did something
else would distort a mean."""
MAX_INPUTS = 1024
"""Maximum number of inputs that are used."""
BATCHES = (1, 8, 32, 128)


@dataclass(frozen=True)
class Timing:
    """How long batches of one size take, by the guard with one screen and by the model alone.

    Attributes:
        batch: number of inputs N in a batch.
        screen: the screen of the guard's policy (`mmguard.Policy.screen`).
        ratio: time of the guard divided by that of the model alone. Both are sums over a block of runs, so that inputs
            that the screen holds back count as often as they occur; this is the median over the blocks.
        ratio_quartiles: first and third quartile of the blocks' ratios.
        held_back: share of the inputs on which the clipped network ran.
        flagged: share of the inputs that were flagged.
        unguarded_ms: median time of a batch by the model alone, in milliseconds.
        guarded_ms: median time of a batch by the guard, in milliseconds.
        guarded_p99_ms: 99th percentile of the guard's times, in milliseconds.
        guarded_per_second: inputs per second by the guard.
        runs: number of batches that the guard ran.
    """

    batch: int
    screen: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    held_back: float
    flagged: float
    unguarded_ms: float
    guarded_ms: float
    guarded_p99_ms: float
    guarded_per_second: float
    runs: int


@dataclass(frozen=True)
class Bench:
    """What a guard costs on this machine.

    Attributes:
        name: the bundle's name.
        provider: the execution provider that all networks ran on.
        threads: number of intra-op threads of each session.
        inputs: number of different inputs that were used.
        session_bytes: memory that the model's own session added to this process, after one batch of the largest size;
            None if the system does not tell.
        guard_bytes: memory that the guard with the first screen added, after the same batch; None if the system does
            not tell.
        timings: the times, by batch size and screen.
    """

    name: str
    provider: str
    threads: int
    inputs: int
    session_bytes: int | None
    guard_bytes: int | None
    timings: tuple[Timing, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in plain Python types."""
        return asdict(self)


def bench(
    bundle: str | Path,
    inputs: str | Path | Batch,
    *,
    batches: Sequence[int] = BATCHES,
    screens: Sequence[float] = (DEFAULT_SHARE, 0.0),
    seconds: float = 5.0,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
) -> Bench:
    """Measure a guard against the model alone, on the same inputs, in turn and in one process.

    Args:
        bundle: path of a guard bundle.
        inputs: inputs like those that the guard will see, because the cost depends on how many the screen holds back:
            anything that `Guard.scan` reads, or an array (n, ...) of preprocessed inputs.
        batches: batch sizes.
        screens: the screens to measure (`Policy.screen`); 0 runs both networks on every input.
        seconds: time to spend on each batch size and screen.
        providers: as in `Guard`.
        threads: as in `Guard`.

    Returns:
        The times.

    Raises:
        MmguardError: the bundle or the inputs cannot be read, as in `Guard` and `Guard.scan`.
        OptionError: a batch size is below 1, `seconds` is not positive, or nothing is to be measured.
    """
    sizes, shares = [*batches], [*screens]
    if not sizes or not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes):
        raise OptionError(f"batches must be whole numbers of at least 1, got {batches!r}")
    if not shares:
        raise OptionError("bench needs at least one screen")
    if not seconds > 0:
        raise OptionError(f"seconds must be positive, got {seconds!r}")
    opened, providers = Bundle.open(bundle), providers or PROVIDERS["cpu"]
    threads = default_threads() if threads is None else threads
    if threads < 1:
        raise OptionError(f"threads must be at least 1, got {threads}")
    x = _read(opened.manifest.input, inputs)
    largest, memory = _endless(x, max(sizes))[: max(sizes)], [_resident()]
    session = open_session(opened.path / "original.onnx", providers, threads)
    model = partial(run, session, list(opened.manifest.output.names))
    model(largest)
    memory.append(_resident())
    guards: dict[float, Guard] = {}
    try:
        for share in shares:
            guards[share] = Guard(
                opened, providers=providers, policy=Policy(screen=share), registry=None, threads=threads
            )
            guards[share](largest)
            memory.append(_resident())  # only that of the first guard is reported
        timings = [each for size in sizes for each in _compare(model, guards, x, int(size), seconds)]
    finally:
        for guard in guards.values():
            guard.close()
    before, after_model, after_guard = memory[:3]
    return Bench(
        opened.manifest.name,
        providers[0],
        threads,
        len(x),
        _growth(before, after_model),
        _growth(after_model, after_guard),
        tuple(timings),
    )


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _resident() -> int | None:
    """Return the memory of this process in bytes; None if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _read(spec: InputSpec, inputs: str | Path | Batch) -> Batch:
    """Return at most `MAX_INPUTS` inputs (n, ...), all of the shape of the first one."""
    if isinstance(inputs, np.ndarray):
        check_batch(inputs, spec)
    found = inputs[:MAX_INPUTS] if isinstance(inputs, np.ndarray) else read_inputs(spec, Path(inputs), MAX_INPUTS)
    if not len(found):
        raise InputError("bench needs at least one input that can be read")
    return np.stack([x for x in found if x.shape == found[0].shape])


def _endless(x: Batch, size: int) -> Batch:
    """Repeat inputs (n, ...) so often that a batch of any `size` rows can start at each of them."""
    return np.concatenate([x] * (-(-size // len(x)) + 1))


class _Stopwatch:
    """Collects the times of batches in blocks.

    Attributes:
        blocks: seconds of each run, by block.
    """

    def __init__(self) -> None:
        self.blocks: list[list[float]] = []

    def time(self, call: Callable[[Batch], Any], x: Batch) -> Any:
        """Call a function with a batch, and return its result."""
        start = perf_counter()
        result = call(x)
        self.blocks[-1].append(perf_counter() - start)
        return result


def _compare(
    model: Callable[[Batch], Any], guards: dict[float, Guard], x: Batch, size: int, seconds: float
) -> list[Timing]:
    """Time the model and each guard on the same batches in turn."""
    endless, rng = _endless(x, size), np.random.default_rng(0)

    def batch() -> Batch:
        return np.ascontiguousarray(endless[(start := int(rng.integers(len(x)))) : start + size])

    alone, guarded = _Stopwatch(), {share: _Stopwatch() for share in guards}
    decisions: dict[float, list[Decision]] = {share: [] for share in guards}
    for guard in guards.values():  # first runs allocate memory
        model(batch())
        guard(batch())
    end = perf_counter() + seconds * len(guards)
    for block in range(BLOCKS):
        for watch in (alone, *guarded.values()):
            watch.blocks.append([])
        stop = end - seconds * len(guards) * (BLOCKS - 1 - block) / BLOCKS
        while not alone.blocks[-1] or perf_counter() < stop:
            part = batch()
            alone.time(model, part)
            for share, guard in guards.items():
                decisions[share].append(guarded[share].time(guard, part))
    return [_timing(size, share, alone, guarded[share], decisions[share]) for share in guards]


def _timing(size: int, share: float, alone: _Stopwatch, guarded: _Stopwatch, decisions: Sequence[Decision]) -> Timing:
    ratios = [sum(ours) / sum(theirs) for ours, theirs in zip(guarded.blocks, alone.blocks, strict=True)]
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    times = np.concatenate(guarded.blocks)
    return Timing(
        batch=size,
        screen=share,
        ratio=float(median),
        ratio_quartiles=(float(low), float(high)),
        held_back=float(np.mean([(decision.clipped_labels >= 0).mean() for decision in decisions])),
        flagged=float(np.mean([decision.flagged.mean() for decision in decisions])),
        unguarded_ms=1000 * float(np.median(np.concatenate(alone.blocks))),
        guarded_ms=1000 * float(np.median(times)),
        guarded_p99_ms=1000 * float(np.quantile(times, 0.99)),
        guarded_per_second=size * len(times) / float(times.sum()),
        runs=len(times),
    )
