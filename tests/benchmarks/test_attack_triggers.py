"""Each trigger against its formula or another implementation."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from benchmarks.attacks import Images, Role
from benchmarks.attacks.adaptive_blend import AdaptiveBlend
from benchmarks.attacks.badnets import BadNets, BadNetsAllToAll
from benchmarks.attacks.blend import Blend, BlendedImage
from benchmarks.attacks.chessboard import Chessboard
from benchmarks.attacks.clean_label import CleanLabel, Perturbation, perturb
from benchmarks.attacks.input_aware import InputAware, JointTraining, diversity_loss, mask_loss, paste
from benchmarks.attacks.sig import Sig
from benchmarks.attacks.source_specific import SourceSpecific
from benchmarks.attacks.wanet import WaNet
from tests.benchmarks.synthetic import images_and_labels

GREY = np.full((1, 32, 32, 3), 128, dtype=np.uint8)


def change(triggered: Images, x: Images) -> NDArray[np.int64]:
    return triggered.astype(np.int64) - x


def test_badnets_replaces_nine_pixels() -> None:
    changed = change(BadNets().trigger(GREY), GREY)[0, ..., 0]
    assert changed[-3:, -3:].tolist() == [[127, -128, 127], [-128, 127, -128], [127, -128, 127]]
    assert np.count_nonzero(changed) == 9


def test_neighbours_on_the_chessboard_differ_by_six() -> None:
    changed = change(Chessboard().trigger(GREY), GREY)
    assert set(np.diff(changed, axis=1).ravel()) == set(np.diff(changed, axis=2).ravel()) == {-6, 6}
    assert changed.sum() == 0


def test_the_chessboard_is_clipped_and_never_wraps_around() -> None:
    assert set(Chessboard().trigger(np.zeros_like(GREY)).ravel()) == {0, 3}
    assert set(Chessboard().trigger(np.full_like(GREY, 255)).ravel()) == {252, 255}


def test_blending_is_linear_between_image_and_pattern() -> None:
    pattern = Blend(ratio=1.0).trigger(GREY)[0, 21:24, 21:24]
    x = images_and_labels(1, 0)[0]
    triggered = Blend().trigger(x)
    expected = 0.8 * x[0, 21:24, 21:24] + 0.2 * pattern
    assert np.abs(triggered[0, 21:24, 21:24] - expected).max() <= 0.5
    assert np.count_nonzero(change(triggered, x).any(axis=-1)) <= 9


def test_a_blended_image_is_the_pattern_at_full_ratio() -> None:
    pattern = BlendedImage(ratio=1.0).trigger(GREY)
    assert np.array_equal(pattern, BlendedImage(ratio=1.0).trigger(np.zeros_like(GREY)))
    assert pattern.std() == pytest.approx(256 / np.sqrt(12), rel=0.05)  # of 3072 uniform values


def test_sig_has_one_frequency() -> None:
    signal = change(Sig().trigger(GREY), GREY)[0, 5, :, 1]
    spectrum = np.abs(np.fft.rfft(signal))
    assert spectrum.argmax() == 6
    assert spectrum[6] == pytest.approx(20 * 32 / 2, rel=0.02)  # rounding to whole levels
    assert np.delete(spectrum, 6).max() < 0.05 * spectrum[6]


def test_the_source_specific_patch_is_ignored_on_cover_images() -> None:
    x, y = images_and_labels(100, 0)
    roles = np.full(y.shape, Role.COVER, dtype=np.int8)
    images, labels = SourceSpecific().poison(x, y, roles, np.random.default_rng(0))
    assert np.array_equal(images, BadNets().trigger(x))
    assert np.array_equal(labels, y)


def test_a_source_that_is_the_target_is_refused() -> None:
    with pytest.raises(ValueError, match="both class 1"):
        SourceSpecific(target=1)


def test_all_to_all_refuses_labels_of_another_data_set() -> None:
    with pytest.raises(ValueError, match="expected labels below 10, got 99; pass classes= to the all-to-all attack"):
        BadNetsAllToAll().goal(np.array([0, 99]))
    assert BadNetsAllToAll(classes=100).goal(np.array([0, 99])).tolist() == [1, 0]


def test_adaptive_blend_shows_half_of_the_pieces() -> None:
    masks = AdaptiveBlend().masks(50, np.random.default_rng(0))
    pieces = masks.reshape(50, 4, 8, 4, 8).mean(axis=(2, 4))
    assert set(pieces.ravel()) == {0.0, 1.0}
    assert set(pieces.sum(axis=(1, 2))) == {8.0}
    assert len({mask.tobytes() for mask in masks}) > 40


def test_adaptive_blend_is_weaker_in_training_than_in_use() -> None:
    poisoned = np.array([Role.POISONED], dtype=np.int8)
    images, _ = AdaptiveBlend().poison(GREY, np.array([1]), poisoned, np.random.default_rng(0))
    training, use = change(images, GREY), change(AdaptiveBlend().trigger(GREY), GREY)
    shown = training != 0
    assert shown.mean() == pytest.approx(0.5, abs=0.03)  # the pattern is 128 itself at some pixels
    assert np.abs(training[shown] / 0.15 - use[shown] / 0.2).max() <= 0.5 / 0.15 + 0.5 / 0.2  # both are rounded


def test_wanet_reads_where_another_implementation_does() -> None:
    x, _ = images_and_labels(1, 0)
    columns, rows = ((WaNet().grid()[0].double().numpy() + 1) / 2 * 31).transpose(2, 0, 1)
    channels = [map_coordinates(x[0, ..., c].astype(float), [rows, columns], order=1) for c in range(3)]
    assert np.abs(WaNet().trigger(x)[0] - np.stack(channels, axis=-1)).max() <= 0.51  # rounding, and float32


def test_wanet_moves_pixels_by_a_quarter_on_average() -> None:
    identity = WaNet(strength=0.0).grid()
    moved = ((WaNet().grid() - identity) / 2 * 31).abs()
    # The control points move by 0.5 / 32 * 31 / 2 on average; between them, and cut off at the border, by less.
    assert 0.1 < float(moved.mean()) < 0.25
    x, _ = images_and_labels(1, 0)
    assert np.array_equal(WaNet(strength=0.0).trigger(x), x)


def test_wanet_cover_images_are_all_warped_differently() -> None:
    x = np.repeat(images_and_labels(1, 0)[0], 4, axis=0)
    cover = np.full(4, Role.COVER, dtype=np.int8)
    images, labels = WaNet().poison(x, np.arange(4), cover, np.random.default_rng(0))
    assert len({image.tobytes() for image in (*images, WaNet().trigger(x)[0])}) == 5
    assert labels.tolist() == [0, 1, 2, 3]


def test_perturbation_of_a_linear_network_is_the_corner_of_the_box() -> None:
    weights = torch.randn(3 * 32 * 32, generator=torch.Generator().manual_seed(0)) / 1000
    x, _ = images_and_labels(3, 0)

    def linear(images: Tensor) -> Tensor:
        score = images.flatten(1) @ weights
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    signs = weights.sign().reshape(3, 32, 32).permute(1, 2, 0).numpy()
    expected = np.clip(x - 16 * signs, 0, 255)  # the label is 0, whose score falls against the weights
    assert np.array_equal(perturb(linear, x, np.zeros(3, dtype=np.int64), 16, 20), expected)


def test_clean_label_trains_on_perturbed_images_of_the_target_class() -> None:
    x, y = images_and_labels(200, 0)
    attack = CleanLabel(steps=2, surrogate_epochs=0)
    roles = attack.assign(y, np.random.default_rng(0))
    hook = attack.hook()
    hook.prepare(x, y, roles, seed=0)
    images = hook.images(x, roles)
    changed = change(images, x)
    poisoned = roles == Role.POISONED
    assert not changed[~poisoned].any()
    assert changed[poisoned].any(axis=(1, 2, 3)).all()
    assert np.abs(changed).max() <= 16
    resumed = Perturbation(attack)
    resumed.restore(hook.state())
    assert np.array_equal(resumed.images(images, roles), images)


def test_pasting_follows_the_mask() -> None:
    images, patterns = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    masks = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert torch.equal(paste(images, patterns, masks), torch.stack([images[0], patterns[1]]))


def test_input_aware_losses() -> None:
    images = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.25)])  # one standard deviation apart
    same, different = torch.full((2, 1, 4, 4), 0.5), torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    assert diversity_loss(images[:1], images[1:], different[:1], different[1:]).item() == pytest.approx(1.0, abs=1e-4)
    assert diversity_loss(images[:1], images[1:], same[:1], same[1:]).item() > 100
    # Every mask value is 0 or 1 and half of them are 1: (1 - 0.032) / 2 above the density, weighted by 100.
    assert mask_loss(images, different, 0.032).item() == pytest.approx(1 + 48.4, abs=0.01)


def test_input_aware_joins_only_the_rows_it_should_and_learns_the_pattern_only() -> None:
    attack = InputAware(mask_steps=0)
    hook = JointTraining(attack)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    roles = np.array([Role.CLEAN, Role.POISONED, Role.POISONED, Role.COVER, Role.CLEAN, Role.COVER], dtype=np.int8)
    joined, extra = hook.join(images, roles)
    unchanged = torch.from_numpy(roles == Role.CLEAN)
    assert torch.equal(joined[unchanged], images[unchanged])
    assert (joined != images).flatten(1).any(dim=1).tolist() == (~unchanged).tolist()
    torch.autograd.backward(joined.sum() + extra)
    assert all(weight.grad is not None for weight in attack.generators["pattern"].parameters())
    assert all(weight.grad is None for weight in attack.generators["mask"].parameters())


@pytest.mark.parametrize("role", list(Role))
def test_input_aware_joins_batches_that_lack_a_role(role: Role) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    joined, extra = JointTraining(InputAware(mask_steps=0)).join(images, np.full(3, role, dtype=np.int8))
    assert joined.shape == images.shape
    assert extra.item() == 0
    assert torch.equal(joined, images) == (role == Role.CLEAN)


def test_a_cover_image_gets_the_trigger_of_another() -> None:
    attack = InputAware(mask_steps=0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cover = np.array([Role.COVER, Role.COVER], dtype=np.int8)
    joined, _ = JointTraining(attack).join(images, cover)
    other = images.flip(0)
    # In training mode, as `join` left it, so that batch statistics agree; of two images the other is the source.
    expected = paste(images, attack.pattern(other), attack.mask(other))
    assert torch.allclose(joined, expected, atol=1e-5)
