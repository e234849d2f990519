from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsparse.errors import FullError, InputError, ServiceError, UnknownNameError
from hwsparse.serve.room import Room
from hwsparse.serve.uploads import Announcement, Upload, Uploads

CONTENT = b"model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ANNOUNCED = Announcement("net", DIGEST, len(CONTENT))


def open_uploads(directory: Path, room_bytes: int = 100_000) -> Uploads:
    return Uploads(directory, ".onnx", 10_000, Room(directory, room_bytes))


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return open_uploads(tmp_path)


def kept(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_file_is_kept_under_its_digest(uploads: Uploads, tmp_path: Path) -> None:
    upload = uploads.receive(ANNOUNCED, [CONTENT[:7], b"", CONTENT[7:]])
    assert upload == uploads.get(DIGEST, "model")
    assert (upload.sha256, upload.name, upload.size_bytes) == (DIGEST, "net", len(CONTENT))
    assert upload.path.read_bytes() == CONTENT
    assert kept(tmp_path) == [f"{DIGEST}/net.onnx"]


def test_a_known_file_is_not_read_again(uploads: Uploads) -> None:
    first = uploads.receive(ANNOUNCED, [CONTENT])

    def never() -> Iterator[bytes]:
        raise AssertionError("read")
        yield b""

    assert uploads.receive(Announcement("other", DIGEST, len(CONTENT)), never()) == first


@pytest.mark.parametrize(
    ("size", "chunks", "said"),
    [
        (len(CONTENT), [CONTENT[:-1]], "net: 4999 bytes came of the 5000 announced"),
        (len(CONTENT), [CONTENT, b"x"], "net: more bytes came than the 5000 announced"),
        (len(CONTENT), [CONTENT[:-1] + b"x"], "net: its sha256 is [0-9a-f]*, not the one announced"),
        (10_001, [], "net: 10001 bytes; this server takes at most 10000"),
    ],
)
def test_nothing_is_kept_of_what_was_not_announced(
    uploads: Uploads, tmp_path: Path, size: int, chunks: list[bytes], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        uploads.receive(Announcement("net", DIGEST, size), chunks)
    assert uploads.find(DIGEST) is None
    assert kept(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\0b", "x" * 101, "é"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(InputError, match="is no file name"):
        Announcement(name, DIGEST, 1)


def test_digests_and_sizes_are_checked() -> None:
    with pytest.raises(InputError, match="not a sha256"):
        Announcement("net", DIGEST.upper(), 1)
    with pytest.raises(InputError, match="net is empty"):
        Announcement("net", DIGEST, 0)


def test_an_unknown_file_is_said_so(uploads: Uploads) -> None:
    for name in (DIGEST, "../..", ""):
        with pytest.raises(UnknownNameError, match=r"no model .* upload it first"):
            uploads.get(name, "model")


def test_the_same_file_from_many_callers_at_once_is_kept_once(uploads: Uploads, tmp_path: Path) -> None:
    together, kept_as = threading.Barrier(6), list[Upload]()

    def send() -> None:
        def chunks() -> Iterator[bytes]:
            together.wait()
            yield CONTENT

        kept_as.append(uploads.receive(ANNOUNCED, chunks()))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept_as) == 6
    assert len(set(kept_as)) == 1
    assert kept(tmp_path) == [f"{DIGEST}/net.onnx"]


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    open_uploads(tmp_path)
    (tmp_path / ".incoming" / "part").write_text("x")
    open_uploads(tmp_path)
    assert kept(tmp_path) == []


def test_a_disk_that_refuses_is_one_clear_error(uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / ".incoming").rmdir()
    with pytest.raises(ServiceError, match="the server cannot keep net: No such file"):
        uploads.receive(ANNOUNCED, [CONTENT])


def test_all_files_together_have_a_limit(tmp_path: Path) -> None:
    uploads = open_uploads(tmp_path, room_bytes=len(CONTENT) + 10)
    (tmp_path / "other").write_bytes(bytes(11))
    with pytest.raises(FullError, match="may keep 5010 bytes and has 11: no room for more"):
        uploads.receive(ANNOUNCED, [CONTENT])
    assert kept(tmp_path) == ["other"]
    (tmp_path / "other").unlink()
    assert uploads.receive(ANNOUNCED, [CONTENT]).size_bytes == len(CONTENT)
    assert uploads.receive(ANNOUNCED, []).size_bytes == len(CONTENT)  # what is here takes no room


def test_files_on_their_way_count(tmp_path: Path) -> None:
    uploads = open_uploads(tmp_path, room_bytes=len(CONTENT) + 10)
    other = Announcement("other", hashlib.sha256(b"x" * 11).hexdigest(), 11)

    def meanwhile() -> Iterator[bytes]:
        with pytest.raises(FullError):
            uploads.receive(other, [b"x" * 11])
        yield CONTENT

    assert uploads.receive(ANNOUNCED, meanwhile()).path.read_bytes() == CONTENT
