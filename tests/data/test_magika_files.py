"""Magika's data, against the package that the network comes from."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.data.magika_files import (
    LabelledFile,
    MagikaConfig,
    draw_files,
    extract_features,
    find_files,
    label_of,
    load_config,
    magika_directory,
    read_installed_files,
)
from hwsparse.errors import DataError
from hwsparse.model import Model, import_onnx
from tests.model.graphs import assert_same_results, run


@pytest.fixture(scope="module")
def config() -> MagikaConfig:
    return load_config(magika_directory())


@pytest.fixture(scope="module")
def model() -> Model:
    return import_onnx(magika_directory() / "model.onnx", name="magika")


def reference(path: Path) -> np.ndarray | None:
    """The features by the package's own code."""
    from magika import Magika

    _, features = Magika()._get_result_or_features_from_path(path)
    return None if features is None else np.array(features.beg + features.end)


def test_the_network_is_imported_as_it_is(model: Model) -> None:
    import onnx

    proto = onnx.load(magika_directory() / "model.onnx")
    assert_same_results(proto, model)
    assert [(layer.op, layer.weight_shape) for layer in model.layers] == [
        ("MatMul", (64, 257)),
        ("Conv", (512, 256, 5, 1)),
        ("Gemm", (214, 512)),
    ]


@settings(max_examples=100, deadline=None)
@given(
    body=st.one_of(
        st.binary(max_size=40),
        st.text(" \n\tab", max_size=40).map(str.encode),
        st.integers(1000, 10_000).map(lambda size: b" " * 50 + bytes(i % 251 for i in range(size)) + b"\n\n"),
        st.integers(4000, 5000).map(lambda size: b" " * size + b"x" * 20 + b" " * size),
    )
)
def test_features_are_those_of_the_package(
    tmp_path_factory: pytest.TempPathFactory, config: MagikaConfig, body: bytes
) -> None:
    path = tmp_path_factory.mktemp("file") / "x"
    path.write_bytes(body)
    ours, theirs = extract_features(path, config), reference(path)
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        np.testing.assert_array_equal(ours, theirs)


def test_the_network_answers_as_the_package_does(config: MagikaConfig, model: Model) -> None:
    from magika import Magika

    drawn = draw_files(find_files(config.labels), config, seed=1, per_label=2, min_per_label=2)
    package = Magika()
    for item, features in drawn:
        (scores,) = run(model.proto, {"bytes": features[None]})
        assert config.labels[int(scores.argmax())] == str(package.identify_path(item.path).prediction.dl.label), (
            item.path
        )


def test_the_set_is_balanced_free_of_duplicates_repeatable_and_fits(config: MagikaConfig, model: Model) -> None:
    found = read_installed_files(config, seed=5, per_label=12)
    found.check_fits(model)
    counts = Counter(found.labels.tolist())
    assert len(counts) >= 10
    assert all(8 <= count <= 12 for count in counts.values())
    assert len({row.tobytes() for row in found.inputs["bytes"]}) == len(found)
    again, other = (read_installed_files(config, seed=seed, per_label=12) for seed in (5, 6))
    assert again.digest == found.digest != other.digest


def test_what_a_name_promises() -> None:
    expected = {
        "/p/json/decoder.py": "python",
        "/p/x/data.JSON": "json",
        "/p/x.dist-info/licenses/LICENSE.txt": "txt",
        "/p/x/LICENSE": "txt",
        "/p/x/LICENSE-APACHE": "txt",
        "/p/x/notes.txt": None,
        "/p/x/entry_points.txt": None,
        "/p/x/list.h": None,
        "/p/x/license.py": "python",
        "/p/tests/bad_syntax.py": None,
        "/p/data/invalid/array/x.toml": None,
        "/p/x/README": None,
    }
    assert {path: label_of(path) for path in expected} == expected


def test_files_that_look_alike_are_taken_once(tmp_path: Path, config: MagikaConfig) -> None:
    files = []
    for index in range(6):
        path = tmp_path / f"{index}.py"
        path.write_text(f"print({index // 2}, 'something')")
        files.append(LabelledFile(path, "python"))
    files += [LabelledFile(tmp_path / "gone.py", "python"), LabelledFile(tmp_path / "empty.py", "python")]
    (tmp_path / "empty.py").touch()
    assert len(draw_files(tuple(files), config, seed=0, per_label=9, min_per_label=1)) == 3
    assert len(draw_files(tuple(files), config, seed=0, per_label=2, min_per_label=1)) == 2
    assert draw_files(tuple(files), config, seed=0, per_label=9, min_per_label=4) == []


def test_an_installation_without_files(config: MagikaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_known = dataclasses.replace(config, labels=("python",))
    with pytest.raises(DataError, match="too few files"):
        read_installed_files(nothing_known, per_label=8)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install magika"):
        magika_directory()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mid_size": 512}, "of a kind that is not known"),
        ({"version_major": 4}, "of a kind that is not known"),
        ({"beg_size": "x"}, "not Magika's configuration"),
        ({"target_labels_space": 3}, "not Magika's configuration"),
    ],
)
def test_configurations_of_another_kind(tmp_path: Path, change: dict[str, object], said: str) -> None:
    body = json.loads((magika_directory() / "config.min.json").read_text()) | change
    (tmp_path / "config.min.json").write_text(json.dumps(body))
    with pytest.raises(DataError, match=said):
        load_config(tmp_path)


def test_configurations_that_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        load_config(tmp_path)
    (tmp_path / "config.min.json").write_text('{"beg_size": ')
    with pytest.raises(DataError, match="not Magika's configuration"):
        load_config(tmp_path)
