"""The checkpoint of a calibration: one safetensors file beside the bundle to be, from which `--resume` goes on.

Its tensors are the state after the last round that was kept. Its metadata are two texts: the `fingerprint` of the
calibration as JSON, and the `sha256` of that and of the tensors. It holds inputs that were made from D, so only its
owner may read it.
"""

import json
import logging
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmguard.calibrate.checkpoint.fingerprint import Fingerprint, differences, digest
from mmguard.calibrate.checkpoint.state import State
from mmguard.errors import CheckpointError, MmguardError, UnwrittenBundleError
from mmguard.files.atomic import beside, sweep

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
"""Seconds between two writes, at least."""
STATE = "state.safetensors"
SHARE = 0.005
"""Share of the time that writing may take: where a write is slow, the next one waits for longer."""


class Checkpoint:
    """Keeps the last finished round of a calibration on disk.

    As a context, it writes the last round that it was given when an interruption ends the calibration, or an error that
    is no refusal of mmguard's: a refusal would come again, but a full disk need not.

    Args:
        path: the file.
        fingerprint: of this calibration.

    Attributes:
        state: what was kept or loaded last; None before that.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self.state: State | None = None
        self._pending: State | None = None
        self._due = time.monotonic() + EVERY_SECONDS

    def __enter__(self) -> Self:
        sweep(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and (isinstance(error, UnwrittenBundleError) or not isinstance(error, MmguardError)):
            self._flush()

    def keep(self, state: State) -> None:
        """Take note of a finished round, and write it where a write is due.

        Args:
            state: arrays that nobody writes to any more.
        """
        self._pending = self.state = state
        if time.monotonic() >= self._due:
            self._flush()

    def load(self) -> State | None:
        """The state to go on from; None where there is no checkpoint.

        Raises:
            CheckpointError: it is damaged, or of another calibration.
        """
        if not self.path.exists():
            return None
        state, kept = self._read()
        if differing := differences(kept, self._fingerprint):
            raise CheckpointError(
                f"{self.path} is of another calibration, which differs in: {', '.join(differing)}; calibrate as "
                "that one was begun, or without --resume, which starts anew and overwrites it"
            )
        self.state = state
        return state

    def remove(self) -> None:
        """Forget the calibration, which is finished."""
        self._pending = None
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[State, Fingerprint]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                texts, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kept = json.loads(texts["fingerprint"])
            sound = texts["sha256"] == digest(state, texts["fingerprint"])
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
            raise self._damaged(f"it cannot be read: {error}") from error
        if not sound or not isinstance(kept, dict):
            raise self._damaged("it does not have the hash that it says")
        return state, kept

    def _damaged(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged, {how}; calibrate without --resume, which starts anew")

    def _flush(self) -> None:
        """Write the last round, if it is not written yet. What cannot be written does not stop the calibration."""
        if self._pending is None:
            return
        start = time.monotonic()
        try:
            self._write(self._pending)
            self._pending = None
            self._due = time.monotonic() + max(EVERY_SECONDS, (time.monotonic() - start) / SHARE)
        except (OSError, SafetensorError) as error:
            self._due = math.inf
            logger.warning("warning: the checkpoint %s cannot be written: %s", self.path, error)

    def _write(self, state: State) -> None:
        text = json.dumps(self._fingerprint)
        state = {name: np.asarray(array, order="C") for name, array in state.items()}  # safetensors forgets strides
        with beside(self.path) as folder:
            half = folder / STATE
            half.touch(mode=0o600)
            save_file(state, half, {"fingerprint": text, "sha256": digest(state, text)})
            half.replace(self.path)
