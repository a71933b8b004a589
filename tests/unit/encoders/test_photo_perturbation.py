"""Copies of photos as another shop would show them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from encoders.image.perturbation import CHANGES, perturb_photo, photo_rng, to_square


def a_photo(height: int = 120, width: int = 160) -> npt.NDArray[np.uint8]:
    """A bright square in the left half, over a gradient of all colours."""
    y, x = np.mgrid[0:height, 0:width]
    photo = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=2)
    photo[40:80, 20:60] = 240
    return photo.astype(np.uint8)


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_depends_on_the_photo_and_the_seed_alone(change: str) -> None:
    first, again = (perturb_photo(a_photo(), photo_rng("a", 0), [change]) for _ in range(2))
    assert np.array_equal(first, again)
    if change != "flip":  # There is one way to do it.
        other_seed, other_photo = (perturb_photo(a_photo(), photo_rng(*key), [change]) for key in (("a", 1), ("b", 0)))
        assert not np.array_equal(first, other_seed)
        assert not np.array_equal(first, other_photo)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_alters_the_photo_and_leaves_the_original_alone(change: str) -> None:
    photo = a_photo()
    copy = perturb_photo(photo, photo_rng("a", 0), [change])
    assert np.array_equal(photo, a_photo())
    assert copy.dtype == np.uint8
    assert copy.shape != photo.shape or not np.array_equal(copy, photo)


def test_a_flip_mirrors_left_and_right() -> None:
    assert np.array_equal(perturb_photo(a_photo(), photo_rng("a", 0), ["flip"]), a_photo()[:, ::-1])


def test_a_crop_leaves_at_least_four_fifths_of_each_side() -> None:
    for seed in range(20):
        height, width, _ = perturb_photo(a_photo(), photo_rng("a", seed), ["crop"]).shape
        assert 0.8 * 120 - 1 <= height <= 120
        assert 0.8 * 160 - 1 <= width <= 160


def test_a_shrunk_photo_keeps_its_proportions_and_its_content() -> None:
    copy = perturb_photo(a_photo(), photo_rng("a", 0), ["shrink"])
    height, width, _ = copy.shape
    assert 0.4 * 160 - 1 <= width <= 0.8 * 160 + 1
    assert height / width == pytest.approx(120 / 160, abs=0.02)
    assert np.abs(to_square(copy, 32).astype(int) - to_square(a_photo(), 32)).mean() < 5


def test_compression_changes_little_and_not_the_size() -> None:
    copy = perturb_photo(a_photo(), photo_rng("a", 0), ["compression"])
    assert copy.shape == a_photo().shape
    assert 0 < np.abs(copy.astype(int) - a_photo()).mean() < 5


def test_a_change_of_colour_leaves_shapes_where_they_are() -> None:
    copy = perturb_photo(a_photo(), photo_rng("a", 3), ["colour"])
    assert np.corrcoef(copy.ravel(), a_photo().ravel())[0, 1] > 0.95


def test_without_a_choice_one_or_several_changes_are_made_at_random() -> None:
    shapes = {perturb_photo(a_photo(), photo_rng("a", seed)).shape for seed in range(30)}
    assert a_photo().shape in shapes  # Neither cropped nor shrunk.
    assert len(shapes) > 10
    assert all(not np.array_equal(perturb_photo(a_photo(), photo_rng("a", seed)), a_photo()) for seed in range(30))


def test_a_photo_of_one_pixel_survives_every_change() -> None:
    for change in CHANGES:
        copy = perturb_photo(np.full((1, 1, 3), 7, np.uint8), photo_rng("a", 0), [change])
        assert to_square(copy, 8).shape == (8, 8, 3)
