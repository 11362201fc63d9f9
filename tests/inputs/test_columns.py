"""The columns of a table are matched to the model's features by name."""

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs.columns import match_columns
from mmguard.inputs.inputs import Inputs
from mmguard.inputs.spec import InputSpec

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)


def features(*columns: str) -> InputSpec:
    return InputSpec("x", (None, len(columns)), *BOX, columns=columns)


def test_columns_are_put_in_the_models_order_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table = Inputs(np.array([[1.0, 2, 3]]), "a.csv", np.array([1]), ("age", "income", "debt"), {0: "fault"})
    moved = match_columns(table, features("debt", "age", "income"))
    assert (moved.x.tolist(), moved.columns, moved.y, moved.faults) == (
        [[3, 1, 2]],
        ("debt", "age", "income"),
        table.y,
        table.faults,
    )
    assert "in a different order" in caplog.text
    caplog.clear()
    assert match_columns(table, features("age", "income", "debt")) is table
    assert not caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("age", "income"), "missing: debt; unknown: none; provide the columns age, income, debt"),
        (("age", "income", "debt", "class"), "missing: none; unknown: class;"),
        (("Age", "income", "debt"), r"missing: age; unknown: Age \(did you mean age instead of Age\?\);"),
        (
            ("age", "in come", "debt"),
            r"missing: income; unknown: in come \(did you mean income instead of in come\?\);",
        ),
        (tuple("stuvwxyz"), "missing: age, income, debt; unknown: s, t, u, v, w and 3 more;"),
    ],
)
def test_columns_that_are_not_the_models_are_refused(columns: tuple[str, ...], message: str) -> None:
    table = Inputs(np.zeros((1, len(columns))), "a.csv", None, columns)
    with pytest.raises(InputError, match=rf"a\.csv: the columns differ from those of the calibration set: {message}"):
        match_columns(table, features("age", "income", "debt"))


def test_columns_without_names_to_match_are_taken_by_position_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    array = Inputs(np.zeros((1, 2)), "a.npy")
    assert match_columns(array, features("age", "income")) is array
    assert not caplog.text
    table = Inputs(np.zeros((1, 2)), "a.csv", None, ("a", "b"))
    assert match_columns(table, InputSpec("x", (None, 2), *BOX)) is table
    assert "not calibrated on a table, so the columns of a.csv are matched by position" in caplog.text
