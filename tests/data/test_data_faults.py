"""A damaged image is skipped; a failing disk, network or memory is not taken for one. And nothing runs an image."""

from __future__ import annotations

import errno
import os
import threading
import warnings

import numpy as np
import pytest
from data_helpers import files, picture, tree
from PIL import Image, UnidentifiedImageError

from senet.cli import main
from senet.data import (
    Augmentation,
    CorruptImage,
    ImageDataset,
    eval_loader,
    eval_transform,
    load_image,
    train_transform,
)
from senet.data.images import Stored, as_corrupt_image, load_stored, read_stored
from senet.data.masks import read_mask
from senet.data.shards import ImageRecords, ShardSource
from senet.errors import from_worker
from senet.preprocessing import CIFAR

MACHINE = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.EHOSTDOWN, "Host is down"),
    OSError(errno.EREMOTEIO, "Remote I/O error"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("timed out"),
    ConnectionError("the server has gone"),
]
OF_MEMORY = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("u1")),
    OSError("out of memory error when reading image file"),  # Pillow's
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
]
OF_THE_FILE = [
    OSError("image file is truncated (3 bytes not processed)"),
    OSError("broken data stream when reading image file"),
    OSError(errno.ENOENT, "No such file or directory"),
    OSError(errno.EINVAL, "Invalid argument"),
    FileNotFoundError("gone"),
    UnidentifiedImageError("cannot identify image file"),
    SyntaxError("not a PNG file"),
    ValueError("bad"),
    IndexError("index out of range"),
    RuntimeError("could not decode"),
]


@pytest.mark.parametrize("error", MACHINE, ids=repr)
def test_a_fault_of_the_machine_stays_what_it_is(error: OSError) -> None:
    with pytest.raises(type(error), match=r"a\.jpg") as caught, as_corrupt_image("a.jpg"):
        raise error
    assert not isinstance(caught.value, CorruptImage)
    assert (caught.value.errno, isinstance(caught.value, OSError)) == (error.errno, True)


@pytest.mark.parametrize("error", OF_MEMORY, ids=repr)
def test_memory_that_ran_out_is_no_broken_image(error: Exception) -> None:
    with (
        pytest.raises(MemoryError, match=r"^a\.jpg: memory ran out"),
        as_corrupt_image("a.jpg"),
        as_corrupt_image("a.jpg"),
    ):
        raise error


@pytest.mark.parametrize("error", OF_THE_FILE, ids=repr)
def test_a_fault_of_the_file_is_a_broken_image(error: Exception) -> None:
    with pytest.raises(CorruptImage, match=r"a\.jpg"), as_corrupt_image("a.jpg"):
        raise error


class Failing:
    """A file whose reading fails after some bytes."""

    def __init__(self, path: str, error: BaseException, after: int) -> None:
        self.file, self.error, self.after = open(path, "rb"), error, after  # noqa: SIM115

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, *size: int) -> bytes:
        if self.file.tell() >= self.after:
            raise self.error
        return self.file.read(*size)

    def readinto(self, _: object) -> int:
        raise self.error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes reading fail in every file whose name has `bad` in it."""
    import builtins

    real = builtins.open

    def make(error: BaseException, after: int = 0) -> None:
        def opens(path: object, *rest: object, **more: object) -> object:
            bad = isinstance(path, str | os.PathLike) and "bad" in os.fspath(path)  # type: ignore[operator]
            if not bad:
                return real(path, *rest, **more)  # type: ignore[call-overload]
            monkeypatch.setattr(builtins, "open", real)
            found = Failing(os.fspath(path), error, after)  # type: ignore[arg-type]
            monkeypatch.setattr(builtins, "open", opens)
            return found

        monkeypatch.setattr(builtins, "open", opens)

    return make


READERS = {"load_image": load_image, "read_stored": read_stored, "read_mask": lambda path: read_mask(path, 2)}


@pytest.mark.parametrize(
    ("suffix", "after"),
    [(".png", 0), (".png", 200), (".jpg", 0), (".jpg", 200), (".tif", 0), (".gif", 0), (".gif", 200), (".webp", 0)],
)  # Pillow reads small TIFF and WebP files in one go
@pytest.mark.parametrize("reader", READERS)
def test_a_failing_disk_shows_itself_wherever_it_fails(tmp_path, failing, reader, suffix, after) -> None:
    path = tmp_path / f"bad{suffix}"
    picture(0, (80, 60), "L").save(path)
    failing(OSError(errno.EIO, "Input/output error"), after)
    with pytest.raises(OSError, match="Input/output error") as caught:
        READERS[reader](path)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("corrupt", ["skip", "raise"])
@pytest.mark.parametrize("training", [False, True])
def test_neither_training_nor_evaluation_skips_it(tmp_path, failing, workers, corrupt, training) -> None:
    source = files(tmp_path / "bad", 3)
    transform = train_transform(CIFAR, Augmentation(crop="pad")) if training else eval_transform(CIFAR)
    failing(OSError(errno.ESTALE, "Stale file handle"))
    with pytest.raises(OSError, match="Stale file handle") as caught:
        list(eval_loader(ImageDataset(source, transform, corrupt=corrupt), batch_size=2, workers=workers))
    assert not isinstance(caught.value, CorruptImage)
    assert "000.png" in from_worker(caught.value)
    assert "\n" not in from_worker(caught.value)


def test_the_command_line_names_the_file(tmp_path, failing, capsys) -> None:
    tree(tmp_path, {"a": 3, "bad": 3})
    failing(OSError(errno.EIO, "Input/output error"))
    assert main(["doctor", "--data", f"folder:{tmp_path}", "--workers", "0"]) == 2
    assert f"{tmp_path}/bad/000.png: Input/output error" in capsys.readouterr().err


def test_a_shard_on_a_failing_disk(tmp_path, monkeypatch) -> None:
    (tmp_path / "x.tar").write_bytes(b"0" * 100)
    numbers = [np.array([value], dtype=np.int64) for value in (0, 10, 0)]
    from senet.data.sources import PathList

    source = ShardSource(
        tmp_path, {"x.tar": 1}, ImageRecords(*numbers, np.array([0], np.uint32), PathList(["cat.jpg"]))
    )

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(OSError, match="Input/output error") as caught:
        source.stored(0)
    assert "cat.jpg" in str(caught.value.filename)


@pytest.mark.parametrize("size", [10, 200])
def test_a_system_without_positioned_reads(tmp_path, monkeypatch, size) -> None:
    from senet.data.shards import _read_at

    content = bytes(range(100))
    (tmp_path / "x.tar").write_bytes(content)
    file = os.open(tmp_path / "x.tar", os.O_RDONLY)
    try:
        there = [_read_at(file, size, offset) for offset in (70, 3)]
        monkeypatch.delattr(os, "preadv")
        assert [_read_at(file, size, offset) for offset in (70, 3)] == there
    finally:
        os.close(file)
    assert there == [content[70 : 70 + size], content[3 : 3 + size]]


# Formats that run something.


@pytest.mark.parametrize("name", ["evil.jpg", "evil.png", "evil", "evil.tif"])
def test_an_eps_starts_no_interpreter(tmp_path, monkeypatch, name) -> None:
    import subprocess

    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an interpreter was started")

    for function in ("run", "Popen", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, function, never)
    for read in (load_image, lambda p: load_stored(Stored(str(p), bytearray(p.read_bytes()))), READERS["read_mask"]):
        with pytest.raises(CorruptImage, match="not an image"):
            read(path)


# Decompression bombs, and the warnings of Pillow.


@pytest.mark.parametrize("filters", ["default", "ignore", "error"])
@pytest.mark.parametrize("pixels", [(100, 15), (100, 40)], ids=["over the limit", "over twice the limit"])
def test_a_mask_has_the_limit_of_an_image(tmp_path, monkeypatch, filters, pixels) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(np.zeros(pixels, np.uint8)).save(tmp_path / "m.png")
    said = set()
    for read in (load_image, READERS["read_mask"]):
        with warnings.catch_warnings():
            warnings.simplefilter(filters)
            with pytest.raises(CorruptImage, match="too large") as caught:
                read(tmp_path / "m.png")
        said.add(caught.value.reason)
    assert len(said) == 1


def test_threads_leave_the_filters_of_the_process_alone(tmp_path) -> None:
    picture(0).save(tmp_path / "x.png")
    before, changed, done = list(warnings.filters), [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if warnings.filters != before:
                changed.append(list(warnings.filters))

    watcher = threading.Thread(target=watch)
    readers = [threading.Thread(target=lambda: [load_image(tmp_path / "x.png") for _ in range(25)]) for _ in range(4)]
    watcher.start()
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    watcher.join()
    assert not changed
    assert list(warnings.filters) == before
