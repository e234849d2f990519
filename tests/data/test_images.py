"""Labelled images, against PIL and numpy used directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hwsparse.data.images
from hwsparse.data import ImagePreprocess, read_dataset, read_image_csv, read_image_folder
from hwsparse.errors import DataError

CROP = ImagePreprocess(size=(8, 10), mean=(127.0,) * 3, std=(128.0,) * 3)


def picture(path: Path, width: int = 16, height: int = 12, seed: int = 0, mode: str = "RGB") -> np.ndarray:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    for index, name in enumerate(["b/2.png", "b/1.png", "a/1.png", "c/x.bmp"]):
        picture(root / name, seed=index)
    (root / "c" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / "readme.md").write_text("")
    return root


def test_centre_crop_and_scale(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "c" / "i.png", 17, 13)
    picture(tmp_path / "d" / "i.png", 10, 8)
    found = read_image_folder(tmp_path, CROP)
    expected = (pixels[2:10, 3:13].astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(found.inputs["x"][0], expected.transpose(2, 0, 1))
    assert found.inputs["x"].dtype == np.float32
    nhwc = read_image_folder(tmp_path, ImagePreprocess((8, 10), (127.0,) * 3, (128.0,) * 3, layout="NHWC"))
    np.testing.assert_array_equal(nhwc.inputs["x"][0], expected)


def test_scale_mean_and_std_per_channel(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "c" / "i.png", 10, 8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = read_image_folder(tmp_path, ImagePreprocess((8, 10), mean, std, scale=1 / 255))
    expected = (pixels / 255 - mean) / std
    np.testing.assert_allclose(found.inputs["x"][0], expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 41), (5, 6)])
def test_resize_of_the_short_side(tmp_path: Path, width: int, height: int) -> None:
    picture(tmp_path / "c" / "i.png", width, height)
    found = read_image_folder(tmp_path, ImagePreprocess((12, 12), resize=12))
    with Image.open(tmp_path / "c" / "i.png") as image:
        factor = 12 / min(width, height)
        small = np.asarray(image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC))
    top, left = (small.shape[0] - 12) // 2, (small.shape[1] - 12) // 2
    np.testing.assert_array_equal(found.inputs["x"][0], small[top : top + 12, left : left + 12].transpose(2, 0, 1))


def test_grey_networks_and_grey_files(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "c" / "i.png", 10, 8, mode="L")
    grey = read_image_folder(tmp_path, ImagePreprocess((8, 10), (0.0,), (1.0,)))
    np.testing.assert_array_equal(grey.inputs["x"][0, 0], pixels)
    assert read_image_folder(tmp_path, CROP).inputs["x"].shape == (1, 3, 8, 10)


def test_classes_follow_the_sorted_names(folder: Path) -> None:
    found = read_image_folder(folder, CROP, input_name="input")
    assert (found.name, found.metric) == ("animals", "top1")
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 2])
    assert found.inputs["input"].shape == (4, 3, 8, 10)


def test_a_limit_draws_by_seed(folder: Path) -> None:
    whole = read_image_folder(folder, CROP)
    some = read_image_folder(folder, CROP, limit=2, seed=3)
    again = read_image_folder(folder, CROP, limit=2, seed=3)
    np.testing.assert_array_equal(some.inputs["x"], again.inputs["x"])
    assert len(some) == 2
    assert len(read_image_folder(folder, CROP, limit=9)) == len(whole)
    with pytest.raises(DataError, match="at least 1, not 0"):
        read_image_folder(folder, CROP, limit=0)


def test_csv_of_files_and_indices(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,class_index,note\na/1.png,7,x\nc/x.bmp,2,y\n")
    found = read_image_csv(folder / "labels.csv", CROP)
    np.testing.assert_array_equal(found.labels, [7, 2])
    assert found.name == "animals"
    np.testing.assert_array_equal(read_dataset(folder, preprocess=CROP).labels, [7, 2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na/1.png,0\n", "the header has no column 'class_index'; it needs file,class_index"),
        ("", "the header has no column 'file'"),
        ("file,class_index\n", "the data set is empty"),
        ("file,class_index\na/1.png\n", "line 2: the row has not as many cells as the header"),
        ("file,class_index\na/1.png,1,2\n", "line 2: the row has not as many cells as the header"),
        ("file,class_index\na/1.png,-1\n", "line 2: class_index '-1' is not an integer from 0 on"),
        ("file,class_index\na/1.png,1.5\n", "class_index '1.5' is not"),
        ("file,class_index\na/1.png,\N{SUPERSCRIPT TWO}\n", "is not an integer"),
        ("file,class_index\na/1.png,1\na/1.png,2\n", "line 3: 'a/1.png' is named twice"),
        ("file,class_index\na/../a/1.png,1\n", "must be a path below the CSV's directory"),
        ("file,class_index\n../secret.png,1\n", "line 2: file '../secret.png' must be a path below"),
        ("file,class_index\n/etc/passwd,1\n", "must be a path below"),
        ("file,class_index\nC:\\x.png,1\n", "must be a path below"),
        ("file,class_index\n,1\n", "must be a path below"),
        ("file,class_index\nlink.png,1\n", "leads out of the CSV's directory"),
        ("file,class_index\nloop.png,1\n", "loop.png"),
        ("file,class_index\nnone.png,1\n", r"none.png is missing"),
        ("file,class_index\nc/notes.txt,1\n", r"notes.txt cannot be decoded"),
        ('file,class_index\n"a/1.png,1\n', "is not a UTF-8 CSV file"),
        ("file,class_index\n" + "x" * 200_000 + ",1\n", "is not a UTF-8 CSV file"),
    ],
)
def test_csv_faults(folder: Path, text: str, said: str) -> None:
    picture(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_image_csv(folder / "labels.csv", CROP)
    assert said in str(caught.value)
    assert "labels.csv" in str(caught.value) or "image " in str(caught.value)


def test_csv_that_is_not_text(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"file,class_index\n\xff\xfe\x80,1\n")
    with pytest.raises(DataError, match="not a UTF-8 CSV file"):
        read_image_csv(folder / "labels.csv", CROP)
    with pytest.raises(DataError, match="cannot read"):
        read_image_csv(folder / "none.csv", CROP)


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="the data set is empty"):
        read_image_folder(tmp_path, CROP)
    with pytest.raises(DataError, match="cannot read"):
        read_image_folder(tmp_path / "none", CROP)


@pytest.mark.parametrize("kept", [0, 10, 60, 200, -60])
def test_damaged_images_are_named(folder: Path, kept: int) -> None:
    path = folder / "b" / "2.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"image .*b/2\.png cannot be decoded"):
        read_image_folder(folder, CROP)


def test_images_smaller_than_the_crop(folder: Path) -> None:
    picture(folder / "a" / "2.png", 9, 12)
    with pytest.raises(DataError, match=r"2\.png: 9x12 pixels are fewer than the crop of 10x8; give a resize"):
        read_image_folder(folder, CROP)


def test_decompression_bombs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwsparse.data.images, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="16x12 pixels; the limit is 100"):
        read_image_folder(folder, CROP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match="more pixels than the limit of 100"):
        read_image_folder(folder, CROP)


def test_formats_that_run_other_programs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image_folder(tmp_path, CROP)


def test_too_much_for_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwsparse.data.images, "MAX_DATA_BYTES", 1000)
    with pytest.raises(DataError, match="give a limit on samples"):
        read_image_folder(folder, CROP)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": (0, 8)}, "size"),
        ({"size": (8, 8), "mean": (0.0, 0.0)}, "one number per channel"),
        ({"size": (8, 8), "mean": (0.0,)}, "one number per channel"),
        ({"size": (8, 8), "std": (1.0, 0.0, 1.0)}, "not 0"),
        ({"size": (8, 8), "scale": float("nan")}, "finite"),
        ({"size": (8, 8), "layout": "CHWN"}, "layout"),
        ({"size": (8, 8), "resize": 0}, "resize"),
    ],
)
def test_preprocessing_that_makes_no_sense(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        ImagePreprocess(**arguments)  # type: ignore[arg-type]
