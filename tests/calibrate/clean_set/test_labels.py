"""Labels of the calibration set: how they are assigned to the model's outputs, and when they are refused."""

import numpy as np
import pytest

from mmguard.calibrate.clean_set.labels import assign_classes, check_accuracy, check_classes
from mmguard.calibrate.clean_set.read import CleanSet
from mmguard.errors import CleanSetError

FOLDERS = CleanSet(np.zeros((2, 1), np.float32), np.array([0, 1]), ("cat", "dog"))
NUMBERS = CleanSet(np.zeros((2, 1), np.float32), np.array([0, 1]), ("0", "3"))
ARRAYS = CleanSet(np.zeros((2, 1), np.float32), np.array([-1, 3]))


@pytest.mark.parametrize(
    ("clean", "names", "message"),
    [
        (FOLDERS, None, r"has 2 classes, but the model has 3 outputs, .*provide all class names with --classes FILE"),
        (FOLDERS, ["cat", "fox", "ship"], "--classes does not list these classes of the calibration set: dog"),
        (FOLDERS, ["cat", "dog"], "expected 3 different class names in --classes, one per output of the model, got 2"),
        (
            FOLDERS,
            ["cat", "dog", "cat"],
            "expected 3 different class names in --classes, one per output of the model, got 2",
        ),
        (NUMBERS, None, "class 3 has no output: the model has outputs 0 to 2"),
        (ARRAYS, None, "expected labels from 0 to 2, because the model has 3 outputs, got labels from -1 to 3"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(clean: CleanSet, names: list[str] | None, message: str) -> None:
    with pytest.raises(CleanSetError, match=message):
        assign_classes(clean, 3, names)


def test_accuracy_near_chance_is_refused_with_its_likely_cause() -> None:
    labels = np.arange(100) % 4
    logits = np.eye(4, dtype=np.float32)[labels]
    check_accuracy(logits, labels, named=True)
    with pytest.raises(
        CleanSetError,
        match=r"classifies only 0.0% of the calibration set correctly, "
        r"which is far below chance \(25.0%\).*--classes FILE",
    ):
        check_accuracy(logits, (labels + 1) % 4, named=True)
    # Three standard deviations above a chance of 1/4 are 0.38 of 100.
    for right, refused in ((37, True), (39, False)):
        mixed = np.where(np.arange(100) < right, labels, (labels + 1) % 4)
        if refused:
            with pytest.raises(CleanSetError, match=r"near chance .* not in the order of the model's outputs .*, or"):
                check_accuracy(logits, mixed, named=False)
        else:
            check_accuracy(logits, mixed, named=False)


def test_missing_classes_are_named_and_of_many_only_some(caplog: pytest.LogCaptureFixture) -> None:
    check_classes(np.array([0, 1, 2]), ["cat", "dog", "ship"], "mmac", labelled=True)
    assert not caplog.text
    check_classes(np.array([0, 0]), ["cat", "dog", "ship"], "mmac", labelled=True)
    assert "no input of class dog, ship; how clipping affects inputs of a missing class is unknown" in caplog.text
    check_classes(np.array([3]), [str(i) for i in range(1000)], "mmbm", labelled=True)
    assert "no input of class 0, 1, 2, 4, 5 and 994 more;" in caplog.text


def test_mmom_is_refused_where_a_class_is_missing() -> None:
    with pytest.raises(CleanSetError, match="no input of class dog; MMOM unlearns classes without inputs"):
        check_classes(np.array([0, 2]), ["cat", "dog", "ship"], "mmom", labelled=True)
