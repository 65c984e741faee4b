from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from data_helpers import picture
from PIL import Image, ImageFile

from senet.data import CorruptImage, load_image
from senet.data.images import file_info
from senet.errors import DataError


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


def truncated_jpeg(path):
    picture(0, (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-600])


def truncated_png(path):
    picture(0, (64, 64)).save(path, "png")
    path.write_bytes(path.read_bytes()[:3000])


def float_tiff(path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(path, "tiff")


def int_tiff(path):
    Image.fromarray(np.full((4, 4), 100_000, np.int32)).save(path, "tiff")


BROKEN = {
    "truncated.jpg": (truncated_jpeg, r"^truncated \(.+ bytes? not processed\)$"),
    "truncated.png": (truncated_png, r"^(truncated|damaged)"),
    "zero.jpg": (lambda path: path.touch(), r"^empty file \(0 bytes\)$"),
    "text.jpg": (lambda path: path.write_text("<html>404</html>"), r"^not an image$"),
    "zeros.jpg": (lambda path: path.write_bytes(b"\0" * 5000), r"^not an image$"),
    "bomb.png": (
        lambda path: path.write_bytes(png_claiming(60_000, 60_000)),
        r"^too large: 3,600 million pixels, limit 89 m",
    ),
    "large.png": (
        lambda path: path.write_bytes(png_claiming(10_000, 10_000)),
        r"^too large: 100 million pixels, limit 89 m",
    ),
    "absent.jpg": (lambda path: None, r"^no such file$"),
    "folder.jpg": (lambda path: path.mkdir(), r"^a folder, not a file$"),
    "loop.jpg": (lambda path: path.symlink_to(path), r"^a link that leads nowhere$"),
    "float.tif": (float_tiff, r"^32-bit float pixels"),
    "int.tif": (int_tiff, r"^32-bit integer pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_says_why(tmp_path, name):
    make, reason = BROKEN[name]
    path = tmp_path / name
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CorruptImage) as caught:
            load_image(path)
    assert caught.value.path == str(path)
    assert re.search(reason, caught.value.reason)
    assert "\n" not in str(caught.value)
    with pytest.raises(CorruptImage):
        file_info(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    picture(0).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(CorruptImage, match="permission denied"):
        load_image(tmp_path / "x.png")


def test_too_many_open_files_is_not_the_images_fault(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="Too many open files"):
        load_image(tmp_path / "x.png")


def test_broken_image_is_a_data_error_that_travels():
    error = CorruptImage("/data/x.jpg", "not an image")
    assert isinstance(error, DataError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, str(again)) == (error.path, error.reason, "/data/x.jpg: not an image")


def test_names_that_no_terminal_prints_are_made_printable():
    error = CorruptImage(os.fsdecode(b"\xff.jpg"), "not an image")
    assert str(error).encode() == b"\\udcff.jpg: not an image"


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    picture(0).save(tmp_path / "x.png")
    load_image(tmp_path / "x.png")
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_users_own_pixel_limit_holds(tmp_path, monkeypatch):
    picture(0, (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    with pytest.raises(CorruptImage, match="too large"):
        load_image(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(tmp_path / "x.png").size == (100, 100)


def loaded(tmp_path, image: Image.Image, name: str = "x.png", **options) -> Image.Image:
    image.save(tmp_path / name, **options)
    return load_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_images_are_unchanged(tmp_path, mode):
    image = picture(0, mode=mode)
    again = loaded(tmp_path, image)
    assert again.mode == mode
    assert np.array_equal(again, image)


def test_content_counts_not_the_extension(tmp_path):
    picture(0).save(tmp_path / "x.jpg", "png")
    assert np.array_equal(load_image(tmp_path / "x.jpg"), picture(0))


def test_16_bit_grey_is_scaled(tmp_path):
    deep = np.array([[0, 128, 129, 257], [30_000, 40_000, 65_534, 65_535]], np.uint16)
    image = loaded(tmp_path, Image.fromarray(deep))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == np.rint(deep / 257).astype(int).tolist()


def test_16_bit_tiff_of_either_byte_order(tmp_path):
    deep = np.arange(0, 65_536, 257, dtype=np.uint16).reshape(16, 16)
    for order, header in (("<", b"II*\0"), (">", b"MM\0*")):
        tags = ((256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, 16), (279, 512))
        entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
        body = header + struct.pack(order + "IH", 8, len(tags)) + entries + struct.pack(order + "I", 0)
        assert len(body) == 122
        (tmp_path / "x.tif").write_bytes(body + deep.astype(order + "u2").tobytes())
        assert np.array_equal(load_image(tmp_path / "x.tif"), np.arange(256).reshape(16, 16)), order


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]):
        image.putpixel((x, 0), pixel)
    again = loaded(tmp_path, image)
    assert again.mode == "RGB"
    assert np.asarray(again)[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_grey_with_transparency(tmp_path):
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (10, 255))
    image.putpixel((1, 0), (10, 0))
    again = loaded(tmp_path, image)
    assert again.mode == "L"
    assert np.asarray(again)[0].tolist() == [10, 255]


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 30, 40, 5, 6, 7])
    image.putpixel((1, 0), 1)
    again = loaded(tmp_path, image, transparency=1)
    assert np.asarray(again)[0].tolist() == [[200, 30, 40], [255, 255, 255]]
    plain = loaded(tmp_path, image)
    assert np.asarray(plain)[0].tolist() == [[200, 30, 40], [5, 6, 7]]


def test_one_bit(tmp_path):
    image = loaded(tmp_path, Image.fromarray(np.array([[True, False]])))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[255, 0]]


def test_one_bit_with_transparency(tmp_path):
    again = loaded(tmp_path, Image.fromarray(np.array([[True, False]])), transparency=0)
    assert again.mode == "L"
    assert np.asarray(again).tolist() == [[255, 255]]


def test_cmyk_jpeg(tmp_path):
    image = loaded(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "x.jpg", quality=95)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).mean((0, 1)) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # a white quarter at the top left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = loaded(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "x.jpg", exif=exif, quality=95)
    assert image.size == (32, 16)
    assert np.abs(np.asarray(image).astype(int) - upright).max() < 8


def test_damaged_exif_spoils_nothing(tmp_path):
    image = loaded(tmp_path, picture(0), "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert image.size == picture(0).size


def test_facts_are_of_the_stored_file(tmp_path):
    picture(0, (30, 10)).convert("P").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    info = file_info(tmp_path / "a.png")
    assert info[:3] == ("P", 30, 10)
    assert info == file_info(tmp_path / "b.png")
