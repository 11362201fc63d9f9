"""The calibration set before it is checked: a folder of images, or arrays from a file or from memory."""

from pathlib import Path

from mmguard.calibrate.clean_set.read import read_arrays
from mmguard.inputs.inputs import Inputs
from mmguard.inputs.memory import CALIBRATION_SET, gather
from mmguard.pipeline.request import Clean


class CleanSource:
    """A calibration set on disk or in memory.

    Args:
        clean: a path, or data in memory.

    Attributes:
        folder: the folder of images; None for arrays.

    Raises:
        CleanSetError: the data in memory is empty or not numeric.
    """

    def __init__(self, clean: Clean) -> None:
        self._path = clean if isinstance(clean, Path) else None
        self.folder = self._path if self._path is not None and self._path.is_dir() else None
        self._arrays = gather(clean) if self._path is None else None
        self._read: dict[str, Inputs] = {}

    @property
    def is_folder(self) -> bool:
        """Whether the calibration set consists of image files."""
        return self.folder is not None

    def inputs(self, dtype: str) -> Inputs:
        """Return the arrays as inputs of a model. A file is read only in the first call for each dtype.

        Args:
            dtype: NumPy name of the dtype of the model's input.

        Returns:
            Inputs (N, ...) with their labels.

        Raises:
            CleanSetError: mmguard does not support this type of file.
            InputError: the file cannot be read, or its values are not valid inputs.
        """
        if dtype not in self._read:
            if self._arrays is not None:
                self._read[dtype] = Inputs.of(*self._arrays, dtype, CALIBRATION_SET)
            else:
                assert self._path is not None, "arrays come from a file or from memory"
                self._read[dtype] = read_arrays(self._path, dtype)
        return self._read[dtype]
