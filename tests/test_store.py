from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsparse.artifact import Artifact, pack
from hwsparse.errors import ArtifactError
from hwsparse.store import ArtifactStore
from tests.example_artifact import example_artifact


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if request.param == "path":
        yield ArtifactStore(tmp_path / "store")
    elif request.param == "file":
        yield ArtifactStore(f"file://{tmp_path}/store")
    else:
        yield ArtifactStore(f"memory://{uuid.uuid4()}")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return example_artifact(tmp_path / "artifact")


def test_what_is_put_can_be_got(store: ArtifactStore, artifact: Artifact, tmp_path: Path) -> None:
    assert store.list() == ()
    assert artifact.digest not in store
    assert store.put(artifact) == artifact.digest
    assert artifact.digest in store
    assert store.list() == (artifact.digest,)
    assert store.get(artifact.digest, tmp_path / "got") == Artifact.load(tmp_path / "got")
    assert store.manifest(artifact.digest) == artifact.manifest
    whole = b"".join(pack(artifact))
    assert b"".join(store.read(artifact.digest)) == whole
    assert store.size(artifact.digest) == len(whole)


def test_many_are_listed_by_digest(store: ArtifactStore, tmp_path: Path) -> None:
    digests = {store.put(example_artifact(tmp_path / name, name)) for name in ("a", "b", "c")}
    assert len(digests) == 3
    assert store.list() == tuple(sorted(digests))


def test_what_is_missing_is_an_artifact_error(store: ArtifactStore, tmp_path: Path) -> None:
    for digest in ("0" * 64, "../escape", "", "0" * 63, "A" * 64):
        assert digest not in store
        for use in (store.manifest, store.size, lambda d: list(store.read(d))):
            with pytest.raises(ArtifactError, match="artifact"):
                use(digest)
        with pytest.raises(ArtifactError):
            store.get(digest, tmp_path / "got")
    assert list(tmp_path.glob("*got*")) == []


def test_putting_again_changes_nothing(store: ArtifactStore, artifact: Artifact) -> None:
    for _ in range(3):
        store.put(artifact)
    assert store.list() == (artifact.digest,)


def test_an_artifact_that_changed_since_loading_is_not_stored(store: ArtifactStore, artifact: Artifact) -> None:
    (artifact.directory / "library.so").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"library\.so: changed"):
        store.put(artifact)
    assert store.list() == ()
    assert artifact.digest not in store


def test_concurrent_puts_and_gets_agree(store: ArtifactStore, artifact: Artifact, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(8)

    def use(number: int) -> None:
        try:
            together.wait()
            for turn in range(5):
                store.put(artifact)
                store.get(artifact.digest, tmp_path / f"got-{number}-{turn}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == (artifact.digest,)


def test_nothing_but_artifacts_is_left_in_a_directory(artifact: Artifact, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.put(artifact)
    (tmp_path / "store" / "README").write_text("not ours")
    assert sorted(os.listdir(tmp_path / "store")) == sorted([f"{artifact.digest}.tar", "README"])
    assert store.list() == (artifact.digest,)


def test_a_changed_byte_in_the_store_is_found(artifact: Artifact, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    path = tmp_path / "store" / f"{store.put(artifact)}.tar"
    content = path.read_bytes()
    for position in (0, 700, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ArtifactError):
            store.get(artifact.digest, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_an_artifact_under_another_name_is_not_it(artifact: Artifact, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    (tmp_path / "store" / f"{store.put(artifact)}.tar").rename(tmp_path / "store" / f"{'0' * 64}.tar")
    with pytest.raises(ArtifactError, match=artifact.digest):
        store.manifest("0" * 64)
    with pytest.raises(ArtifactError, match=artifact.digest):
        store.get("0" * 64, tmp_path / "got")


def test_part_of_an_artifact_is_put_anew(artifact: Artifact, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    path = tmp_path / "store" / f"{store.put(artifact)}.tar"
    path.write_bytes(path.read_bytes()[:1000])
    store.put(artifact)
    assert store.get(artifact.digest, tmp_path / "got").digest == artifact.digest


@pytest.mark.parametrize("location", ["nosuch://bucket/x", "/dev/null/store", "/proc/store"])
def test_a_place_that_cannot_be_a_store_is_said_so(location: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be an artifact store"):
        ArtifactStore(location)


def test_a_store_whose_directory_vanished_says_so(artifact: Artifact, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    (tmp_path / "store").rmdir()
    with pytest.raises(ArtifactError, match="No such file"):
        store.put(artifact)
    with pytest.raises(ArtifactError, match="No such file"):
        store.list()
