"""Corruptions of images, against the paper's own formulas worked out plainly."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.data import Corruption
from hwsparse.data.corruptions import PIXELS, SEVERITIES, SMALL, TEXTS
from hwsparse.errors import DataError

SEVERITY = range(1, SEVERITIES + 1)
SIDES = (32, 96)  # with the constants of CIFAR-10-C, and of ImageNet-C


def picture(side: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Blocks of colour, away from black and white: something to blur, and room for noise."""
    blocks = np.random.default_rng(seed).integers(60, 196, (side // 8, side // 8, channels))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", PIXELS)
def test_an_image_stays_one_and_gets_worse_with_severity(name: str, side: int) -> None:
    for channels in (1, 3):
        before = picture(side, channels=channels)
        kept = before.copy()
        after = [Corruption(name, severity).of_pixels(before) for severity in SEVERITY]
        assert all((each.shape, each.dtype) == (before.shape, np.uint8) for each in after)
        far = [distance(before, each) for each in after]
        assert far == sorted(far) and 0 < far[0] < far[-1]
        np.testing.assert_array_equal(before, kept)


@pytest.mark.parametrize("name", PIXELS)
def test_chance_is_the_seeds_and_the_images(name: str) -> None:
    first, second = picture(32, 1), picture(32, 2)
    corruption = Corruption(name, 2, seed=5)
    once = corruption.of_pixels(first)
    corruption.of_pixels(second)
    np.testing.assert_array_equal(corruption.of_pixels(first), once)
    random = not np.array_equal(Corruption(name, 2, seed=6).of_pixels(first), once)
    assert random == ("noise" in name)


def test_noise_is_another_for_every_image() -> None:
    noise = [Corruption("gaussian_noise").of_pixels(each).astype(int) - each for each in (picture(32), picture(32, 1))]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


# By size and severity, from make_cifar_c.py and make_imagenet_c.py.
DEVIATIONS = {32: (0.04, 0.06, 0.08, 0.09, 0.10), 96: (0.08, 0.12, 0.18, 0.26, 0.38)}
PHOTONS = {32: (500, 250, 100, 75, 50), 96: (60, 25, 12, 5, 3)}
BLURS = {32: (0.4, 0.6, 0.7, 0.8, 1), 96: (1, 2, 3, 4, 6)}
CONTRASTS = {32: (0.75, 0.5, 0.4, 0.3, 0.15), 96: (0.4, 0.3, 0.2, 0.1, 0.05)}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITY)
def test_noise_has_the_papers_deviation(side: int, severity: int) -> None:
    grey = np.full((side, side, 3), 128, np.uint8)
    noisy = Corruption("gaussian_noise", severity).of_pixels(grey) / 255
    if severity < 4:  # beyond it is cut off at black and white
        assert noisy.std() == pytest.approx(DEVIATIONS[side][severity - 1], rel=0.06)
    dark = np.full((side, side, 3), 51, np.uint8)
    shot = Corruption("shot_noise", severity).of_pixels(dark) / 255
    photons = PHOTONS[side][severity - 1]
    assert shot.mean() == pytest.approx(0.2, rel=0.06)
    assert shot.std() == pytest.approx(np.sqrt(0.2 / photons), rel=0.08)
    np.testing.assert_allclose(shot * photons, np.rint(shot * photons), atol=photons / 500)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITY)
def test_contrast_is_the_papers(side: int, severity: int) -> None:
    before = picture(side) / 255
    expected = (before - before.mean(axis=(0, 1))) * CONTRASTS[side][severity - 1] + before.mean(axis=(0, 1))
    found = Corruption("contrast", severity).of_pixels(picture(side)) / 255
    np.testing.assert_allclose(found, expected, atol=0.51 / 255)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITY)
def test_blur_is_a_weighted_mean_of_what_lies_around(side: int, severity: int) -> None:
    before, deviation = picture(side), BLURS[side][severity - 1]
    found = Corruption("gaussian_blur", severity).of_pixels(before)
    reach = int(4 * deviation + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * deviation**2))
    for row, column in ((0, 0), (side // 2, side // 3), (side - 1, 7)):
        rows, columns = (np.clip(place + offsets, 0, side - 1) for place in (row, column))
        around = before[rows][:, columns].astype(np.float64)
        expected = (weights[:, :, None] * around).sum(axis=(0, 1)) / weights.sum()
        np.testing.assert_allclose(found[row, column], expected, atol=0.51)


def test_the_shorter_side_says_whether_an_image_is_small() -> None:
    wide = np.tile(picture(SMALL), (1, 2, 1))
    cut = wide[: SMALL - 8]
    for image, share in ((wide, 0.2), (cut, 0.4)):
        spread = Corruption("contrast", 3).of_pixels(image).std(axis=(0, 1)) / image.std(axis=(0, 1))
        assert spread == pytest.approx([share] * 3, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fog",), "corruption 'fog' is not one of gaussian_noise, shot_noise, gaussian_blur, contrast, typos"),
        (("contrast", 0), "severity 0 is not 1 to 5"),
        (("contrast", 6), "severity 6 is not 1 to 5"),
        (("contrast", 1, -1), "seed: not negative"),
    ],
)
def test_corruptions_that_are_none(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Corruption(*arguments)  # type: ignore[arg-type]


def test_images_are_not_text() -> None:
    with pytest.raises(DataError, match="typos is no corruption of images: gaussian_noise"):
        Corruption("typos").of_pixels(picture(32))
    with pytest.raises(DataError, match="contrast is no corruption of text: typos are"):
        Corruption("contrast").of_text("a cat")
    assert not set(PIXELS) & set(TEXTS)
