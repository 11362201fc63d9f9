"""The checkpoint of a calibration: a safetensors file next to the bundle, from which `--resume` continues.

The tensors in the file are the state after the last saved round. The metadata of the file consists of two strings:
`fingerprint`, the fingerprint of the calibration as JSON, and `sha256`, the hash of the fingerprint and the tensors.
The file contains inputs that were derived from the calibration set, so only the owner of the file may read it.
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
"""Minimum number of seconds between two writes of the checkpoint."""
STATE = "state.safetensors"
SHARE = 0.005
"""Maximum share of the running time to spend on writing. The longer a write takes, the later the next write starts."""


class Checkpoint:
    """The state of a calibration after its last finished round, stored on disk.

    As a context manager, the checkpoint writes the last state if the calibration is interrupted, or if the calibration
    fails with an error that may not occur again after resuming, such as a full disk. After any other `MmguardError`,
    the checkpoint writes nothing, because resuming would raise the same error again.

    Args:
        path: path of the file.
        fingerprint: fingerprint of this calibration.

    Attributes:
        path: path of the file.
        state: the state that was last passed to `keep` or returned by `load`; None if there is no state yet.
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
        """Keep the state after a finished round in memory, and write it to disk if a write is due.

        Args:
            state: arrays by name; the caller must not modify the arrays afterwards.
        """
        self._pending = self.state = state
        if time.monotonic() >= self._due:
            self._flush()

    def load(self) -> State | None:
        """Read the state to continue from.

        Returns:
            The state; None if there is no checkpoint.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to a different calibration.
        """
        if not self.path.exists():
            return None
        state, kept = self._read()
        if differing := differences(kept, self._fingerprint):
            raise CheckpointError(
                f"{self.path} belongs to a different calibration, which differs in: {', '.join(differing)}; use the "
                "model, calibration set and options of that calibration, or calibrate without --resume to start over "
                "and overwrite the checkpoint"
            )
        self.state = state
        return state

    def remove(self) -> None:
        """Delete the file, because the calibration is finished."""
        self._pending = None
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[State, Fingerprint]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                texts, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kept = json.loads(texts["fingerprint"])
            intact = texts["sha256"] == digest(state, texts["fingerprint"])
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
            raise self._damaged(f"mmguard cannot read the file: {error}") from error
        if not intact or not isinstance(kept, dict):
            raise self._damaged("the content does not match the stored hash")
        return state, kept

    def _damaged(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged ({how}); calibrate without --resume to start over")

    def _flush(self) -> None:
        """Write the last state unless it is already on disk. A failed write does not stop the calibration."""
        if self._pending is None:
            return
        start = time.monotonic()
        try:
            self._write(self._pending)
            self._pending = None
            self._due = time.monotonic() + max(EVERY_SECONDS, (time.monotonic() - start) / SHARE)
        except (OSError, SafetensorError) as error:
            self._due = math.inf
            logger.warning("warning: mmguard cannot write the checkpoint %s: %s", self.path, error)

    def _write(self, state: State) -> None:
        text = json.dumps(self._fingerprint)
        state = {name: np.asarray(array, order="C") for name, array in state.items()}  # safetensors ignores strides
        with beside(self.path) as folder:
            half = folder / STATE
            half.touch(mode=0o600)
            save_file(state, half, {"fingerprint": text, "sha256": digest(state, text)})
            half.replace(self.path)
