"""Order and augmentation: every label once, decided by the seed, and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwsparse.tuning.batches import SHIFT, augmented, in_order, steps_per_epoch, take, training_order
from tests.tuning.modules import pictures, sentences

CPU = torch.device("cpu")


def test_an_epoch_takes_every_label_once() -> None:
    data = pictures(50, 1)
    orders = [training_order(data, 3, epoch) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[1], training_order(data, 3, 1))
    assert (steps_per_epoch(data, 16), steps_per_epoch(data, 64)) == (3, 1)
    np.testing.assert_array_equal(np.concatenate(list(in_order(data, 16))), np.arange(50))


def test_pairs_stay_together() -> None:
    data = sentences(10, 0)
    (ids,) = take(data, ["ids"], np.array([7, 2]), CPU)
    np.testing.assert_array_equal(ids.numpy(), data.inputs["ids"][[14, 15, 4, 5]])


@pytest.mark.parametrize("how", ["flip", "crop-flip"])
def test_images_are_moved_as_a_plain_loop_moves_them(how: str) -> None:
    images = torch.from_numpy(np.array(pictures(40, 2).inputs["image"]))
    (moved,) = augmented((images,), how, 5, 11)
    shift = SHIFT if how == "crop-flip" else 0
    seen = set()
    for image, found in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
        candidates = {
            (down, right, flipped): window[:, :, ::-1] if flipped else window
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            for flipped in (False, True)
            for window in [padded[:, down : down + 8, right : right + 8]]
        }
        seen.add(next(place for place, window in candidates.items() if np.array_equal(window, found)))
    assert {flipped for _, _, flipped in seen} == {False, True}
    assert len(seen) > (20 if shift else 1)
    (again,) = augmented((images,), how, 5, 11)
    assert torch.equal(moved, again)
    assert not torch.equal(moved, augmented((images,), how, 5, 12)[0])


def test_each_image_is_mixed_with_another_in_some_share() -> None:
    images = torch.from_numpy(np.array(pictures(40, 2).inputs["image"]))
    moved = augmented((images,), "crop-flip", 5, 11)[0].numpy().reshape(40, -1).astype(np.float64)
    mixed = augmented((images,), "crop-flip-mix", 5, 11)[0].numpy().reshape(40, -1).astype(np.float64)
    shares, others = [], []
    for own, found in zip(moved, mixed, strict=True):
        # own + t (other - own), for the other image that fits best
        steps = moved - own
        lengths = np.maximum(np.sum(steps * steps, axis=1), 1e-12)
        t = steps @ (found - own) / lengths
        errors = np.abs(found - own - t[:, None] * steps).max(axis=1)
        others.append(int(errors.argmin()))
        shares.append(t[others[-1]])
        assert errors.min() < 1e-5
    assert -1e-6 <= min(shares) < 0.2 and 0.8 < max(shares) <= 1
    assert len(set(others)) > 30


def test_what_is_no_batch_of_images_stays() -> None:
    tokens, images = torch.arange(12).reshape(2, 6), torch.ones(2, 1, 4, 4)
    same = augmented((tokens, images), "crop-flip", 0, 0)
    assert same[0] is tokens and augmented((images,), "none", 0, 0)[0] is images
