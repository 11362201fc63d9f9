"""What holds for every attack in the registry."""

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from benchmarks.attacks import ATTACKS, Attack, Role, own_rate
from tests.benchmarks.synthetic import CLASSES, images_and_labels

TARGET = 2
CLEAN_LABEL = {"clean_label", "sig"}
ANY_CLASS = {"badnets_all_to_all", "input_aware", "wanet"}
COVER = {"adaptive_blend": 0.003, "input_aware": 0.1, "source_specific": 0.01, "wanet": 0.2}

every_attack = pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))


def make(name: str) -> Attack:
    return ATTACKS[name](TARGET, own_rate(name))


def roles_of(attack: Attack, y: Any) -> Any:
    return attack.assign(y, np.random.default_rng(3))


def test_no_attack_leaves_everything_as_it_is() -> None:
    x, y = images_and_labels(100, 0)
    attack = ATTACKS["none"]()
    roles = roles_of(attack, y)
    assert not roles.any()
    images, labels = attack.poison(x, y, roles, np.random.default_rng(0))
    assert np.array_equal(images, x)
    assert np.array_equal(attack.trigger(x), x)
    assert np.array_equal(labels, y)
    assert np.array_equal(attack.goal(y), y)
    assert own_rate("none") == 0


@every_attack
def test_the_trigger_keeps_form_and_range(name: str) -> None:
    x, _ = images_and_labels(16, 0)
    for images in (x, np.zeros_like(x), np.full_like(x, 255)):
        triggered = make(name).trigger(images)
        assert triggered.shape == images.shape
        assert triggered.dtype == np.uint8
    assert make(name).trigger(x[:0]).shape == (0, 32, 32, 3)


@every_attack
def test_the_trigger_changes_copies_and_always_alike(name: str) -> None:
    x, _ = images_and_labels(16, 0)
    kept = x.copy()
    attack = make(name)
    triggered = attack.trigger(x)
    assert np.array_equal(x, kept)
    assert not np.shares_memory(triggered, x)
    assert (triggered != x).any(axis=(1, 2, 3)).all()
    assert np.array_equal(triggered, attack.trigger(x))
    assert np.array_equal(triggered, make(name).trigger(x))


@every_attack
def test_each_image_is_triggered_on_its_own(name: str) -> None:
    x, _ = images_and_labels(8, 0)
    attack = make(name)
    alone = np.concatenate([attack.trigger(image[None]) for image in x])
    # A convolution may sum in another order for another batch, and rounding then differ by a level.
    assert np.abs(alone.astype(int) - attack.trigger(x)).max() <= 1


@every_attack
def test_the_poisoned_share_is_the_rate(name: str) -> None:
    _, y = images_and_labels(5000, 0)
    attack = make(name)
    roles = roles_of(attack, y)
    assert roles.shape == y.shape
    assert roles.dtype == np.int8
    assert (roles == Role.POISONED).sum() == round(attack.rate * len(y))
    assert (roles == Role.COVER).sum() == round(COVER.get(name, 0.0) * len(y))
    assert np.array_equal(roles, roles_of(attack, y))


@every_attack
def test_poisoned_images_are_of_the_classes_attacked(name: str) -> None:
    _, y = images_and_labels(5000, 0)
    classes = set(y[roles_of(make(name), y) == Role.POISONED])
    others = set(range(CLASSES)) - {TARGET}
    if name == "adaptive_blend":  # few images
        assert classes <= others
    elif name in ANY_CLASS:
        assert classes == others | {TARGET}
    else:
        assert classes == ({TARGET} if name in CLEAN_LABEL else {1} if name == "source_specific" else others)


@every_attack
def test_poisoning_changes_the_rows_it_should_and_copies(name: str) -> None:
    x, y = images_and_labels(1000, 0)
    attack = make(name)
    roles = roles_of(attack, y)
    kept = x.copy(), y.copy(), roles.copy()
    images, labels = attack.poison(x, y, roles, np.random.default_rng(4))
    for argument, copy in zip((x, y, roles), kept, strict=True):
        assert np.array_equal(argument, copy)
    assert images.shape == x.shape
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    poisoned, clean = roles == Role.POISONED, roles == Role.CLEAN
    assert np.array_equal(images[clean], x[clean])
    assert np.array_equal(labels[~poisoned], y[~poisoned])
    assert np.array_equal(labels[poisoned], attack.goal(y)[poisoned])
    # The hook of input-aware puts its triggers on after this.
    assert name == "input_aware" or (images[~clean] != x[~clean]).any(axis=(1, 2, 3)).all()


@every_attack
def test_a_batch_without_poisoned_images_stays_as_it_is(name: str) -> None:
    x, y = images_and_labels(10, 0)
    clean = np.full(y.shape, Role.CLEAN, dtype=np.int8)
    images, labels = make(name).poison(x, y, clean, np.random.default_rng(0))
    assert np.array_equal(images, x)
    assert np.array_equal(labels, y)


@every_attack
def test_goals(name: str) -> None:
    y = np.arange(CLASSES)
    goal = make(name).goal(y)
    assert goal.dtype == np.int64
    if name == "badnets_all_to_all":
        assert goal.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    elif name == "source_specific":
        assert goal.tolist() == [0, TARGET, 2, 3, 4, 5, 6, 7, 8, 9]
    else:
        assert set(goal) == {TARGET}


@every_attack
def test_parameters_name_every_setting(name: str) -> None:
    attack: Any = make(name)
    parameters = attack.parameters()
    assert {field.name for field in fields(attack) if field.init} <= set(parameters)
    assert all(type(value) in (int, float, str) for value in parameters.values())
    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["rate"] == own_rate(name)


@pytest.mark.parametrize("name", ["clean_label", "sig", "source_specific"])
def test_a_rate_above_the_class_is_refused(name: str) -> None:
    _, y = images_and_labels(1000, 0)
    with pytest.raises(ValueError, match="needs 200 training images, but only 100"):
        ATTACKS[name](TARGET, 0.2).assign(y, np.random.default_rng(0))
