"""Match the columns of a table to the features of a model, by name."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import replace

from mmguard.errors import InputError
from mmguard.inputs.inputs import Inputs
from mmguard.inputs.spec import InputSpec
from mmguard.text.format import NAMED, first_few
from mmguard.text.sanitize import sanitize

logger = logging.getLogger(__name__)


def match_columns(inputs: Inputs, spec: InputSpec) -> Inputs:
    """Put the columns of a table in the order of the model's features, by name.

    Args:
        inputs: the inputs read from a file.
        spec: the model's input, including the names of its features if the bundle was calibrated on a table.

    Returns:
        The inputs, with the columns in the order of the model's features. If the file or the bundle has no column
            names, the inputs are returned unchanged.

    Raises:
        InputError: The column names differ from the names of the model's features.
    """
    if inputs.columns is None:
        return inputs
    if spec.columns is None:
        logger.info(
            "the bundle was not calibrated on a table, so the columns of %s are matched by position", inputs.source
        )
        return inputs
    missing = [name for name in spec.columns if name not in inputs.columns]
    extra = [name for name in inputs.columns if name not in spec.columns]
    if missing or extra:
        raise InputError(
            f"{inputs.source}: the columns differ from those of the calibration set: "
            f"{_listed('missing', missing)}; {_listed('unknown', extra)}{_closest(missing, extra)}; "
            f"provide the columns {sanitize(first_few(spec.columns, 20))}"
        )
    if inputs.columns == spec.columns:
        return inputs
    logger.info("the columns of %s are in a different order than in the bundle; reordering them by name", inputs.source)
    order = [inputs.columns.index(name) for name in spec.columns]
    return replace(inputs, x=inputs.x[:, order], columns=spec.columns)


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {sanitize(first_few(names)) or 'none'}"


def _closest(missing: Sequence[str], extra: Sequence[str]) -> str:
    """Suggest a missing column whose name is similar to an unknown column's name; return "" if no names are similar."""
    folded = {name.casefold(): name for name in missing}
    for name in extra[:NAMED]:
        if close := difflib.get_close_matches(name.casefold(), folded, 1):
            return sanitize(f" (did you mean {folded[close[0]]} instead of {name}?)")
    return ""
