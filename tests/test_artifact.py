from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwsparse.artifact import (
    Artifact,
    FileEntry,
    LatencyFigure,
    LayerProof,
    Manifest,
    QualityFigure,
    archive_size,
    pack,
    parse_manifest,
    read_manifest,
    replace_artifact,
    require_writable,
    unpack,
    write_artifact,
)
from hwsparse.artifact.manifest import noise_note
from hwsparse.errors import ArtifactError, HwsparseError, InputError
from hwsparse.plan import Plan
from tests.example_artifact import FILES, MODEL_DIGEST, example_artifact, example_manifest


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return b"".join(pack(example_artifact(tmp_path_factory.mktemp("packed") / "a")))


def test_what_is_written_loads_equal(tmp_path: Path) -> None:
    written = example_artifact(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    assert loaded == written
    assert loaded.manifest.files == tuple(
        FileEntry(name, hashlib.sha256(FILES[name]).hexdigest(), len(FILES[name])) for name in sorted(FILES)
    )
    assert dataclasses.replace(loaded.manifest, files=()) == example_manifest()
    assert os.listdir(tmp_path) == ["a"]


def test_the_digest_is_the_sha256_of_the_canonical_body(tmp_path: Path) -> None:
    artifact = example_artifact(tmp_path / "a")
    body = json.loads((tmp_path / "a" / "manifest.json").read_text())
    said = body.pop("digest")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    assert said == artifact.digest == hashlib.sha256(text.encode()).hexdigest()


def test_files_may_be_given_by_path_and_are_copied(tmp_path: Path) -> None:
    (tmp_path / "lib").write_bytes(b"code")
    files = {**FILES, "library.so": tmp_path / "lib"}
    artifact = write_artifact(tmp_path / "a", files, example_manifest())
    assert (artifact.directory / "library.so").read_bytes() == b"code"
    assert (tmp_path / "lib").exists()


@pytest.mark.parametrize("name", ["manifest.json", "library.so", "library.json", "notes.txt"])
def test_any_changed_byte_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    artifact = example_artifact(tmp_path / "a")
    path = artifact.directory / name
    content = path.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 97)):
        for change in (1, 0x20, 0x80):
            path.write_bytes(content[:position] + bytes([content[position] ^ change]) + content[position + 1 :])
            with pytest.raises(ArtifactError, match=name):
                Artifact.load(artifact.directory)
    for other in (content + b"\n", content[:-1], b""):
        path.write_bytes(other)
        with pytest.raises(ArtifactError, match=name):
            Artifact.load(artifact.directory)
    path.write_bytes(content)
    assert Artifact.load(artifact.directory) == artifact


def swap_for_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def swap_for_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "extra").write_text("x"), "extra: not part of the artifact"),
        (lambda d: (d / "sub").mkdir(), "sub: not part of the artifact"),
        (lambda d: (d / "library.so").unlink(), "library.so: No such file"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json: No such file"),
        (lambda d: swap_for_link(d / "library.so"), "library.so: a symbolic link"),
        (lambda d: swap_for_link(d / "manifest.json"), "manifest.json: a symbolic link"),
        (lambda d: swap_for_pipe(d / "library.so"), "library.so: not a plain file"),
        (lambda d: swap_for_directory(d / "library.so"), "library.so: not a plain file"),
    ],
)
def test_a_spoiled_directory_does_not_load(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    artifact = example_artifact(tmp_path / "a")
    spoil(artifact.directory)
    with pytest.raises(ArtifactError, match=said):
        Artifact.load(artifact.directory)


def test_what_is_no_artifact_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(ArtifactError):
            Artifact.load(path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({**FILES, "../out": b""}, "cannot be the name"),
        ({**FILES, "a/b": b""}, "cannot be the name"),
        ({**FILES, "manifest.json": b""}, "cannot be the name"),
        ({**FILES, ".hidden": b""}, "cannot be the name"),
        ({"library.so": b""}, "library.json is not among its files"),
        ({**FILES, "library.so": Path("/nonexistent/lib")}, "/nonexistent/lib: No such file"),
    ],
)
def test_nothing_is_left_of_an_artifact_that_cannot_be_written(
    tmp_path: Path, files: dict[str, Path | bytes], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        write_artifact(tmp_path / "a", files, example_manifest())
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    artifact = example_artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="something is there already"):
        example_artifact(tmp_path / "a", "other")
    with pytest.raises(ArtifactError, match="something is there already"):
        unpack(pack(artifact), tmp_path / "a")
    assert Artifact.load(tmp_path / "a") == artifact
    (tmp_path / "empty").mkdir()
    assert example_artifact(tmp_path / "empty").digest == artifact.digest


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for place in (tmp_path / "a", tmp_path / "b" / "c", tmp_path / "empty"):
        require_writable(place)
    for place, said in ((tmp_path / "file", "something is there"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(InputError, match=f"^{place}: .*{said}"):
            require_writable(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_name_the_place_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(source))

    monkeypatch.setattr(os, "rename", refuse)
    for write in (example_artifact, lambda place: replace_artifact(place, example_artifact)):
        with pytest.raises(ArtifactError, match=f"^{tmp_path}/a: No space left"):
            write(tmp_path / "a")


def test_an_older_artifact_gives_way_to_a_newer_one(tmp_path: Path) -> None:
    place = tmp_path / "a"
    for name in ("first", "second"):
        written = replace_artifact(place, lambda directory, name=name: example_artifact(directory, name))
        assert Artifact.load(place) == written
        assert written.manifest.model.name == name
        assert os.listdir(tmp_path) == ["a"]


def test_an_older_artifact_outlives_a_newer_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = example_artifact(tmp_path / "a")

    def broken(directory: Path) -> Artifact:
        example_artifact(directory)
        raise HwsparseError("the disk caught fire")

    with pytest.raises(HwsparseError, match="caught fire"):
        replace_artifact(old.directory, broken)
    rename = os.rename

    def stuck(source: Path, target: Path) -> None:
        if target == old.directory and not next(moves):
            raise OSError(28, "No space left on device")
        rename(source, target)

    moves = itertools.count()
    monkeypatch.setattr(os, "rename", stuck)
    with pytest.raises(ArtifactError, match="No space left"):
        replace_artifact(old.directory, example_artifact)
    assert Artifact.load(tmp_path / "a") == old
    assert os.listdir(tmp_path) == ["a"]


def test_numbers_are_written_as_they_are_declared(tmp_path: Path) -> None:
    whole = dataclasses.replace(example_manifest(), latency=LatencyFigure(1, (1, 2), "predicted", 0))
    artifact = write_artifact(tmp_path / "a", FILES, whole)
    assert Artifact.load(tmp_path / "a").manifest == artifact.manifest
    assert '"median_s": 1.0' in artifact.manifest.text


@pytest.mark.parametrize(
    "build",
    [
        lambda: LatencyFigure(0.001, (0.002, 0.003), "measured", 30),
        lambda: LatencyFigure(0.001, (0.001, float("inf")), "measured", 30),
        lambda: LatencyFigure(0.001, (0.001, 0.001), "measured", 0),
        lambda: LatencyFigure(-1.0, (-1.0, 1.0), "predicted", 0),
        lambda: QualityFigure("top1", float("nan"), (0, 1), 0, (0, 0), 3, "d", "s"),
        lambda: QualityFigure("top1", 0.5, (0, 1), 0, (0, 0), 0, "d", "s"),
        lambda: QualityFigure("top1", 0.5, (0, 1), float("inf"), (0, 0), 3, "d", "s"),
        lambda: QualityFigure("top1", 0.5, (0, 1), 0, (0.1, 0), 3, "d", "s"),
        lambda: LayerProof("l", "2:4", "dense", "k", None, None, None),
        lambda: LayerProof("l", "2:4", "2:4", "k", None, None, "why"),
        lambda: LayerProof("l", "nonsense", "dense", "k", None, None, "why"),
        lambda: LayerProof("l", "block4x1@0.90", "dense", "k", None, None, "why"),
        lambda: LayerProof("l", "dense", "dense", "k", -1.0, None, None),
        lambda: dataclasses.replace(example_manifest(), plan=Plan("cd" * 32)),
        lambda: dataclasses.replace(example_manifest(), plan=Plan(MODEL_DIGEST)),
        lambda: dataclasses.replace(example_manifest(), layers=()),
        lambda: dataclasses.replace(example_manifest(), layers=example_manifest().layers * 2),
        lambda: dataclasses.replace(example_manifest(), created_at="yesterday"),
        lambda: dataclasses.replace(example_manifest(), created_at="2026-1-1T12:00:00Z"),
    ],
)
def test_a_manifest_that_contradicts_itself_cannot_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(HwsparseError):
        build()


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    text = example_manifest().text.replace('"format": 1', '"format": 2')
    with pytest.raises(ArtifactError, match="has the format 2; this hwsparse reads 1"):
        parse_manifest(text)


manifests = st.builds(
    lambda name, time, shape, tools: dataclasses.replace(
        example_manifest(name),
        latency=LatencyFigure(time, (time / 2, time * 2), "simulated", 1),
        inputs=tuple(dataclasses.replace(t, shape=shape) for t in example_manifest().inputs),
        toolchain=tools,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.floats(0, 1e9),
    st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
    st.lists(st.tuples(st.text("abc"), st.text("012.")), max_size=3).map(tuple),
)


@given(manifests)
def test_manifests_survive_their_text(manifest: Manifest) -> None:
    again = parse_manifest(manifest.text)
    assert again == manifest
    assert again.digest == manifest.digest


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_no_bytes_break_the_reader_of_manifests(content: bytes | str) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_no_value_in_place_of_another_breaks_the_reader(data: st.DataObject) -> None:
    whole = json.loads(example_manifest().text)
    place, key = whole, data.draw(st.sampled_from(sorted(whole)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    value = data.draw(json_values)
    if json.dumps(place[key]) == json.dumps(value):
        return
    place[key] = value
    with pytest.raises(ArtifactError):
        parse_manifest(json.dumps(whole, sort_keys=True, indent=1) + "\n")


def test_an_archive_is_a_tar_that_others_read(tmp_path: Path, packed: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        content = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    assert content.pop("manifest.json").startswith(b"{")
    assert content == FILES


def test_an_archive_unpacks_to_the_same_artifact(tmp_path: Path, packed: bytes) -> None:
    artifact = unpack([packed], tmp_path / "b")
    assert Artifact.load(tmp_path / "b") == artifact
    assert b"".join(pack(artifact)) == packed
    assert len(packed) == archive_size(artifact.manifest)
    assert read_manifest([packed[:100], packed[100:]]) == artifact.manifest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.integers(0, 8000), max_size=6))
def test_chunks_may_be_of_any_size(tmp_path: Path, packed: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(packed)]
    chunks = [packed[a:b] for a, b in itertools.pairwise(ends)]
    directory = tmp_path / "-".join(["out", *map(str, cuts)])
    if not directory.exists():
        assert unpack(chunks, directory).directory == directory


def other_tar(packed: bytes, change: Callable[[tarfile.TarInfo], None]) -> bytes:
    """The archive again as Python's own tar writes it, with the first file after the manifest changed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(packed)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for index, member in enumerate(old):
            content = old.extractfile(member)
            if index == 1:
                change(member)
            new.addfile(member, content if member.isfile() else None)
    return out.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "name", "../escaped"),
        lambda m: setattr(m, "name", "/tmp/escaped"),
        lambda m: (setattr(m, "type", tarfile.SYMTYPE), setattr(m, "linkname", "/etc/passwd")),
        lambda m: (setattr(m, "type", tarfile.LNKTYPE), setattr(m, "linkname", "manifest.json")),
        lambda m: setattr(m, "type", tarfile.DIRTYPE),
        lambda m: setattr(m, "type", tarfile.FIFOTYPE),
        lambda m: setattr(m, "mode", 0o4777),
        lambda m: setattr(m, "name", "n" * 300),
    ],
)
def test_no_other_member_is_unpacked(tmp_path: Path, packed: bytes, change: Callable[[tarfile.TarInfo], None]) -> None:
    with pytest.raises(ArtifactError):
        unpack([other_tar(packed, change)], tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_archive_must_be_whole_and_nothing_more(tmp_path: Path, packed: bytes) -> None:
    wrong = [packed[:n] for n in range(0, len(packed), 501)]
    wrong += [packed + b"\0", packed[:-1] + b"x", packed[:-1024] + packed, b"x" * 2000]
    for content in wrong:
        with pytest.raises(ArtifactError):
            unpack([content], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_of_an_archive_is_found(tmp_path: Path, packed: bytes) -> None:
    for position in range(0, len(packed), 61):
        changed = packed[:position] + bytes([packed[position] ^ 1]) + packed[position + 1 :]
        with pytest.raises(ArtifactError):
            unpack([changed], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_the_artifact_asked_for_is_unpacked(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(ArtifactError, match="not " + "0" * 64):
        unpack([packed], tmp_path / "out", digest="0" * 64)
    with pytest.raises(ArtifactError, match="larger than 1000 bytes"):
        unpack([packed], tmp_path / "out", max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_breaks_at_its_end_leaves_nothing(tmp_path: Path, packed: bytes) -> None:
    def broken() -> Iterator[bytes]:
        yield packed
        raise ArtifactError("the line was cut")

    with pytest.raises(ArtifactError, match="the line was cut"):
        unpack(broken(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_after_loading_is_not_packed(tmp_path: Path) -> None:
    artifact = example_artifact(tmp_path / "a")
    for content in (b"changed", b"x" * 10_000, bytes(len(FILES["library.so"]))):
        (artifact.directory / "library.so").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"library\.so: changed"):
            list(pack(artifact))
    (artifact.directory / "library.so").unlink()
    with pytest.raises(ArtifactError, match=r"library\.so: No such file"):
        list(pack(artifact))


def test_of_times_the_one_that_is_known_worst_is_told() -> None:
    well, badly = (LatencyFigure(1.0, (low, 1.0), "measured", 50) for low in (0.985, 0.929))
    assert noise_note([well, None]) == noise_note([None]) == ""
    assert noise_note([well, badly]).startswith("Times are known to 7.1% only, not to 2%: ")
