"""Which classes are groups of their own, against counts by hand."""

from collections import Counter

import numpy as np

from mmguard.detection.groups import MIN_OF_CLASS, group_classes


def test_a_class_with_enough_clean_inputs_is_a_group_and_all_others_share_all_inputs() -> None:
    decisions = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4], [10, 9, 25, 1]))
    groups, rows = group_classes(decisions, 6)
    counts = Counter(decisions.tolist())
    own = [label for label in range(6) if counts[label] >= 10]  # class 2 and class 5 have no clean input
    assert MIN_OF_CLASS == 10
    assert groups.dtype == np.int64
    assert groups.tolist() == [own.index(label) + 1 if label in own else 0 for label in range(6)] == [1, 0, 0, 2, 0, 0]
    assert [sorted(each.tolist()) for each in rows] == [
        list(range(45)),
        *([row for row, label in enumerate(decisions) if label == wanted] for wanted in own),
    ]


def test_without_a_class_of_enough_clean_inputs_there_is_one_group() -> None:
    groups, rows = group_classes(np.arange(27) % 3, 4)
    assert groups.tolist() == [0, 0, 0, 0]
    assert [each.tolist() for each in rows] == [list(range(27))]
