import numpy as np
import pytest

from benchmarks.training.imbalance import PROFILES, long_tail, step, subsample, training_rows

IMBALANCED = sorted(PROFILES.keys() - {"balanced"})


def test_the_long_tail_by_hand() -> None:
    # 5000 / 100^(i/9), rounded down.
    expected = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail(5000, 10, 100).tolist() == expected


@pytest.mark.parametrize(("n0", "classes", "images"), [(5000, 10, 12406), (500, 100, 10847)])
def test_the_long_tail_has_the_images_that_the_literature_counts(n0: int, classes: int, images: int) -> None:
    assert PROFILES["LT-100"](n0, classes).sum() == images


def test_the_step_by_hand() -> None:
    assert step(5000, 10, 100).tolist() == [5000] * 5 + [50] * 5
    assert step(500, 100, 10).tolist() == [500] * 50 + [50] * 50
    assert step(100, 5, 10).tolist() == [100] * 3 + [10] * 2  # i < K / 2


@pytest.mark.parametrize("name", IMBALANCED)
@pytest.mark.parametrize(("n0", "classes"), [(5000, 10), (500, 100)])
def test_the_ratio_is_that_of_the_name(name: str, n0: int, classes: int) -> None:
    sizes = PROFILES[name](n0, classes)
    assert sizes.shape == (classes,)
    assert sizes.dtype == np.int64
    assert sizes[0] == sizes.max() == n0
    assert sizes[-1] == sizes.min() == n0 // int(name.split("-")[1])
    assert (np.diff(sizes) <= 0).all()


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        long_tail(50, 10, 100)


@pytest.mark.parametrize("name", IMBALANCED)
def test_a_subsample_has_the_sizes_of_its_profile(name: str) -> None:
    y = np.random.default_rng(0).permutation(np.arange(4000) % 4)
    sizes = PROFILES[name](1000, 4)
    rows = subsample(y, sizes, np.random.default_rng(1))
    assert np.array_equal(np.bincount(y[rows]), sizes)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, subsample(y, sizes, np.random.default_rng(1)))
    assert not np.array_equal(rows, subsample(y, sizes, np.random.default_rng(2)))


def test_every_image_of_a_class_may_be_drawn() -> None:
    y = np.repeat([0, 1], 10)
    drawn = {row for seed in range(60) for row in subsample(y, np.array([1, 1]), np.random.default_rng(seed))}
    assert drawn == set(range(20))  # each is missed with probability 0.9^60


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        subsample(np.array([0, 0, 1]), np.array([2, 2]), np.random.default_rng(0))


def test_training_rows_of_a_split() -> None:
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 120, 110]))
    assert np.array_equal(training_rows("balanced", y, np.random.default_rng(0)), np.arange(330))
    rows = training_rows("LT-100", y, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [100, 10, 1]
