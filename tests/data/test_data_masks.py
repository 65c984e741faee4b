"""Numbers in a mask's file are those in memory, or the file is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.data import CorruptImage, open_data
from senet.data.mask_files import read_mask
from senet.errors import DataError

NUMBERS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits: int, kind: int, rows: list[bytes], *more: bytes) -> bytes:
    """A PNG by hand: Pillow writes no grey of 2 or 4 bits, and no 16-bit colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def saved(name: str, pixels: np.ndarray, **options: object):
    return lambda folder: Image.fromarray(pixels).save(folder / name, **options) or folder / name


def palette(folder: Path, **options: object) -> Path:
    image = Image.fromarray(NUMBERS.astype(np.uint8)).convert("P")
    image.putdata(NUMBERS.ravel().tolist())
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 9, 9, 9])
    name = options.pop("name", "m.png")
    image.save(folder / str(name), **options)
    return folder / str(name)


def by_hand(content: bytes, name: str = "m.png"):
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


KEPT = {
    "8-bit grey": saved("m.png", NUMBERS.astype(np.uint8)),
    "16-bit grey": saved("m.png", NUMBERS.astype(np.uint16)),
    "32-bit TIFF": saved("m.tif", NUMBERS.astype(np.int32)),
    "16-bit TIFF": saved("m.tif", NUMBERS.astype(np.uint16)),
    "compressed TIFF": saved("m.tif", NUMBERS.astype(np.uint8), compression="tiff_lzw"),
    "BMP": saved("m.bmp", NUMBERS.astype(np.uint8)),
    "PGM": saved("m.pgm", NUMBERS.astype(np.uint8)),
    "palette": palette,
    "palette with transparency": lambda folder: palette(folder, transparency=1),
    "palette, all of it transparent": lambda folder: palette(folder, transparency=bytes([0, 10, 20, 0])),
    "GIF": lambda folder: palette(folder, name="m.gif"),
    "2-bit grey": by_hand(png(2, 0, [b"\x1b", b"\xe4"])),
    "4-bit grey": by_hand(png(4, 0, [b"\x01\x23", b"\x32\x10"])),
    "grey whose 0 is transparent": by_hand(png(8, 0, [b"\0\1\2\3", b"\3\2\1\0"], chunk(b"tRNS", b"\0\0"))),
}


@pytest.mark.parametrize("form", KEPT)
def test_numbers_are_kept(form: str, tmp_path: Path) -> None:
    assert read_mask(KEPT[form](tmp_path), 4).tolist() == NUMBERS.tolist()


def test_16_bit_numbers_are_not_cut_to_8_bits(tmp_path: Path) -> None:
    for wrong in (256, 257, 511, 4095, 65535):
        path = saved("m.png", np.full((2, 4), wrong, np.uint16))(tmp_path)
        with pytest.raises(CorruptImage, match=f"class number {wrong}, but there are 3 classes"):
            read_mask(path, 3)
        assert read_mask(path, 2, instances=True).all()


REFUSED = {
    "RGB": (saved("m.png", np.ones((2, 4, 3), np.uint8)), "one channel of class numbers; this is RGB"),
    "RGBA": (saved("m.png", np.ones((2, 4, 4), np.uint8)), "one channel of class numbers; this is RGBA"),
    "grey with alpha": (saved("m.png", np.ones((2, 4, 2), np.uint8)), "one channel of class numbers; this is LA"),
    "16-bit grey with alpha": (by_hand(png(16, 4, [bytes(16)] * 2)), "one channel of class numbers"),
    "16-bit colour": (by_hand(png(16, 2, [bytes(24)] * 2)), "one channel of class numbers; this is RGB"),
    "CMYK": (lambda f: Image.new("CMYK", (4, 2)).save(f / "m.tif") or f / "m.tif", "this is CMYK"),
    "float": (saved("m.tif", np.ones((2, 4), np.float32)), "one channel of class numbers; this is F"),
    "JPEG": (saved("m.jpg", NUMBERS.astype(np.uint8)), "JPEG changes numbers; save masks as PNG"),
    "JPEG called PNG": (saved("m.png", NUMBERS.astype(np.uint8), format="JPEG"), "JPEG changes numbers"),
    "JPEG in a TIFF": (saved("m.tif", NUMBERS.astype(np.uint8), compression="jpeg"), "changes numbers"),
    "white is zero": (saved("m.tif", NUMBERS.astype(np.uint8), tiffinfo={262: 0}), "count down from white"),
    "scaled PGM": (by_hand(b"P5 4 2 3\n" + bytes(NUMBERS.ravel().tolist()), "m.pgm"), "scaled, white being 3"),
    "plain scaled PGM": (by_hand(b"P2 4 2 3\n0 1 2 3\n3 2 1 0\n", "m.pgm"), "scaled, white being 3"),
    "negative": (saved("m.tif", np.full((2, 4), -1, np.int32)), "class number -1; class numbers start at 0"),
    "pages": (lambda f: Image.new("L", (4, 2)).save(f / "m.tif", save_all=True, append_images=[Image.new("L", (4, 2))])
              or f / "m.tif", "this file holds 2"),
}  # fmt: skip


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("form", REFUSED)
def test_what_would_change_numbers_is_refused(form: str, instances: bool, tmp_path: Path) -> None:
    write, says = REFUSED[form]
    path = write(tmp_path)
    with pytest.raises(CorruptImage, match=says) as caught:
        read_mask(path, 4, instances=instances)
    assert caught.value.path == str(path)


def test_more_classes_than_numbers(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / f"{number}.png")
    names = [f"c{number}" for number in range(256)]
    with pytest.raises(DataError, match="256 classes; masks have at most 255"):
        open_data(f"masks:{tmp_path}", classes=names)
    open_data(f"masks:{tmp_path}", classes=names[:255])
