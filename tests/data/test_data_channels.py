"""Images of any channels and bit depth are read exactly, changed as tensors, and measured channel by channel."""

from __future__ import annotations

import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data import Augmentation, Data, FileSource, ImageDataset, eval_transform, open_data, scan, train_transform
from senet.data.band_statistics import band_statistics
from senet.data.bands import read_bands
from senet.data.channels import with_channels
from senet.data.dataset import RefusedImage
from senet.data.image_errors import CorruptImage, UnsuitableImage
from senet.data.images import decode_image, read_stored
from senet.data.inputs import preview, transformed_file
from senet.data.sharding import write_shards
from senet.errors import DataError
from senet.inspection.examples import pixels_of
from senet.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
PLAIN = Preprocessing(size=(6, 5), crop_fraction=1.0, mean=(0,) * 4, std=(1,) * 4, channel_order="other", bit_depth=16)


def bands_of(channels: int, dtype: type = np.uint16) -> np.ndarray:
    """(C, 6, 5) of the whole range of a type."""
    if np.issubdtype(dtype, np.floating):
        return RNG.normal(300, 1, (channels, 6, 5)).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, (channels, 6, 5), dtype=dtype, endpoint=True)


def write_tiff(path: Path, bands: np.ndarray, **options: object) -> Path:
    """Write one page for each channel."""
    first, *rest = [Image.fromarray(band) for band in bands]
    first.save(path, save_all=True, append_images=rest, **options)
    return path


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_channels_are_read_exactly(tmp_path, channels: int, dtype: type) -> None:
    bands = bands_of(channels, dtype)
    files = [
        write_npy(tmp_path / "last.npy", bands.transpose(1, 2, 0)),
        write_npy(tmp_path / "first.npy", bands),
        write_npy(tmp_path / "columns.npy", np.asfortranarray(bands.transpose(1, 2, 0))),
        write_npy(tmp_path / "swapped.npy", bands.transpose(1, 2, 0).astype(bands.dtype.newbyteorder(">"))),
        write_tiff(tmp_path / "pages.tif", bands),
        write_tiff(tmp_path / "packed.tif", bands, compression="tiff_lzw"),
    ]
    for path in files:
        found = read_bands(read_stored(path), channels)
        assert found.dtype == bands.dtype, path.name
        np.testing.assert_array_equal(found, bands, err_msg=path.name)


def test_an_array_is_a_view_of_the_mapped_file(tmp_path) -> None:
    stored = read_stored(write_npy(tmp_path / "a.npy", bands_of(4)))
    assert type(stored.content).__name__ == "mmap"
    assert not read_bands(stored, 4).flags.owndata


def test_sixteen_bits_of_any_file_reach_the_network(tmp_path) -> None:
    """Two images that differ in the lowest bit alone."""
    even = bands_of(3) & 0xFFFE
    for ending in ("tif", "npy", "png"):
        tensors = []
        for name, bands in (("even", even), ("odd", even | 1)):
            path = tmp_path / f"{name}.{ending}"
            if ending == "png":
                path.write_bytes(deep_png(bands))
            elif ending == "npy":
                np.save(path, bands.transpose(1, 2, 0))
            else:
                write_tiff(path, bands)
            images = replace(PLAIN, mean=(0,) * 3, std=(1,) * 3, channel_order="RGB")
            tensors.append(transformed_file(path, eval_transform(images)))
            exact = bands.astype(np.float64) / 65535
            np.testing.assert_array_equal(tensors[-1].numpy(), exact.astype(np.float32))
        assert (tensors[0] != tensors[1]).all()


def deep_png(bands: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow can't write."""
    import struct
    import zlib

    height, width = bands.shape[1:]
    rows = b"".join(b"\0" + bands[:, y].T.astype(">u2").tobytes() for y in range(height))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_white_is_of_the_files_own_type() -> None:
    twelve = replace(PLAIN, bit_depth=12)
    values = np.array([[[0, 4095], [4094, 8190]]] * 4, np.uint16)
    one = eval_transform(replace(twelve, size=(2, 2)))
    assert torch.equal(one(values)[0], torch.tensor([[0, 1], [4094 / 4095, 2]]))  # nothing is cut
    eight = np.full((4, 2, 2), 51, np.uint8)
    assert one(eight).unique().tolist() == [pytest.approx(0.2)]
    floating = replace(PLAIN, size=(2, 2), bit_depth=32)
    assert eval_transform(floating)(np.full((4, 2, 2), -7, np.int16)).unique().tolist() == [-7]


def test_grey_rgb_and_transparency(tmp_path) -> None:
    rgba = Image.fromarray(bands_of(4, np.uint8).transpose(1, 2, 0))
    rgba.save(tmp_path / "rgba.png")
    stored = read_stored(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_bands(stored, 4), np.asarray(rgba).transpose(2, 0, 1))
    over_white = np.asarray(decode_image(tmp_path / "rgba.png"))
    np.testing.assert_array_equal(read_bands(stored, 3), over_white.transpose(2, 0, 1))
    rgba.convert("RGB").save(tmp_path / "rgb.png")
    luminance = read_bands(read_stored(tmp_path / "rgb.png"), 1)
    pillow = np.asarray(rgba.convert("RGB").convert("L")).astype(int)
    assert luminance.dtype == np.uint8
    assert abs(luminance[0].astype(int) - pillow).max() <= 1
    grey = write_npy(tmp_path / "grey.npy", bands_of(1)[0])
    assert len(np.unique(read_bands(read_stored(grey), 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("five.npy", bands_of(5), "5 channels, expected 4"),
        ("grey.npy", bands_of(1), "1 channel, expected 4"),
        ("batch.npy", np.zeros((2, 3, 4, 5)), r"\(2, 3, 4, 5\), expected \(H, W\)"),
        ("float.npy", bands_of(4, np.float32), "float32 values, expected 16 bits; --bit-depth float"),
    ],
)
def test_other_images_are_refused_by_file_found_and_expected(tmp_path, name: str, array, reason: str) -> None:
    path = write_npy(tmp_path / name, array)
    with pytest.raises(UnsuitableImage, match=f"{name}: .*{reason}"):
        transformed_file(path, eval_transform(PLAIN))
    dataset = ImageDataset(FileSource([path], [0]), eval_transform(PLAIN))  # "skip" is for corrupt images
    with pytest.raises(RefusedImage, match=reason):
        dataset[0, 0]


def test_more_bits_than_the_training_and_nan_are_refused(tmp_path) -> None:
    path = write_npy(tmp_path / "a.npy", bands_of(4))
    with pytest.raises(UnsuitableImage, match="16-bit values, expected 8 bits; --bit-depth 16"):
        transformed_file(path, eval_transform(replace(PLAIN, bit_depth=8)))
    np.save(path, np.full((4, 6, 5), np.nan))
    with pytest.raises(UnsuitableImage, match="NaN"):
        transformed_file(path, eval_transform(replace(PLAIN, bit_depth=32)))
    with pytest.raises(UnsuitableImage, match=r"--channels 4 --bit-depth float"):
        decode_image(path)  # an ordinary training


def test_damaged_and_dangerous_arrays(tmp_path) -> None:
    whole = write_npy(tmp_path / "whole.npy", bands_of(4)).read_bytes()
    objects = BytesIO()
    np.save(objects, np.array([[print]]), allow_pickle=True)
    for content, reason in (
        (whole[:-1], "truncated"),
        (whole[:20], "damaged|truncated|array|EOF"),
        (objects.getvalue(), "expected numbers"),
        (b"\x93NUMPY" + pickle.dumps(print), "array|version|magic|expected"),
    ):
        (tmp_path / "bad.npy").write_bytes(content)
        with pytest.raises(CorruptImage, match=reason):
            read_bands(read_stored(tmp_path / "bad.npy"), 4)


def test_pages_that_are_no_channels(tmp_path) -> None:
    first, second = (Image.new("L", (5, edge)) for edge in (6, 7))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(UnsuitableImage, match="2 pages that are no channels"):
        read_bands(read_stored(tmp_path / "a.tif"), 2)


def test_several_bands_in_one_page(tmp_path) -> None:
    tifffile = pytest.importorskip("tifffile")
    bands = bands_of(5)
    for layout, array in (("separate", bands), ("contig", bands.transpose(1, 2, 0))):
        tifffile.imwrite(tmp_path / "a.tif", array, planarconfig=layout, photometric="minisblack")
        np.testing.assert_array_equal(read_bands(read_stored(tmp_path / "a.tif"), 5), bands)


def test_a_tiff_that_pillow_would_cut_names_what_reads_it(tmp_path, monkeypatch) -> None:
    """Of 16-bit colours Pillow keeps 8 bits."""
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    bands = bands_of(3)
    (tmp_path / "a.tif").write_bytes(planar_tiff(bands))
    with pytest.raises(UnsuitableImage, match=r"needs tifffile.*pip install 'senet\[tiff\]'"):
        read_bands(read_stored(tmp_path / "a.tif"), 3)


def planar_tiff(bands: np.ndarray) -> bytes:
    """A 16-bit RGB TIFF of one interleaved strip."""
    import struct

    pixels = bands.transpose(1, 2, 0).astype("<u2").tobytes()
    height, width = bands.shape[1:]
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + len(pixels)), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, 1)]  # fmt: skip
    bits = struct.pack("<3H", 16, 16, 16)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(bits)) + pixels + bits + directory


AUGMENTED = Augmentation(
    crop="random-resized", vflip=0.5, rotation=10, translate=0.1, color_jitter=0.3, random_erasing=0.5, cutout=2
)


@pytest.mark.parametrize("augmentation", [AUGMENTED, Augmentation(crop="pad", pad=1), Augmentation(crop="none")])
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_augmentation_of_any_channels_depends_on_seed_epoch_and_index(tmp_path, augmentation, channels: int) -> None:
    path = write_npy(tmp_path / "a.npy", RNG.integers(0, 65535, (20, 24, channels), dtype=np.uint16))
    images = replace(PLAIN, mean=(0.5,) * channels, std=(0.25,) * channels)
    dataset = ImageDataset(FileSource([path], [0]), train_transform(images, augmentation), seed=3)
    first = dataset[0, 0].image
    torch.rand(5)
    assert torch.equal(first, dataset[0, 0].image)
    assert first.shape == (channels, 6, 5)
    assert first.dtype == torch.float32
    assert len({dataset[epoch, 0].image.numpy().tobytes() for epoch in range(8)}) > 1


def test_a_crop_is_the_crop_of_all_channels() -> None:
    """A random resized crop of an image whose channels are alike has channels alike."""
    one = RNG.integers(0, 65535, (40, 30), dtype=np.uint16)
    images = replace(PLAIN, mean=(0.5,) * 4, std=(0.25,) * 4)
    found = train_transform(images, replace(AUGMENTED, random_erasing=0, rotation=0, translate=0))(np.stack([one] * 4))
    assert (found == found[:1]).all()
    assert found.std() > 0.1


def test_statistics_are_exact(tmp_path) -> None:
    """Of images of different sizes and types, against float64 over all pixels."""
    arrays = [RNG.integers(0, 65535, (2, 4 + n, 5), dtype=np.uint16) for n in range(3)]
    arrays.append(RNG.integers(0, 255, (2, 9, 5), dtype=np.uint8))
    paths = [write_npy(tmp_path / f"{n}.npy", array) for n, array in enumerate(arrays)]
    (tmp_path / "corrupt.npy").write_bytes(b"nothing")
    found = band_statistics(FileSource([*paths, tmp_path / "corrupt.npy"]), channels=2, bit_depth=16)
    scaled = [a.reshape(2, -1) / np.float64(np.iinfo(a.dtype).max) for a in arrays]
    every = np.concatenate(scaled, axis=1)
    assert found.images == 4
    np.testing.assert_allclose(found.mean, every.mean(1), rtol=1e-13)
    np.testing.assert_allclose(found.std, every.std(1), rtol=1e-13)
    np.testing.assert_array_equal(found.largest, every.max(1))


def test_statistics_of_floating_point_keep_small_deviations(tmp_path) -> None:
    arrays = [RNG.normal(1e8, 0.01, (6, 5)) for _ in range(3)]
    paths = [write_npy(tmp_path / f"{n}.npy", array.astype(np.float64)) for n, array in enumerate(arrays)]
    found = band_statistics(FileSource(paths), channels=1, bit_depth=32)
    assert found.std[0] == pytest.approx(np.std(arrays), rel=1e-6)
    constant = write_npy(tmp_path / "constant.npy", np.full((6, 5), 7.0))
    assert band_statistics(FileSource([constant]), channels=1, bit_depth=32).std == (1.0,)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of four 16-bit images each, of four channels, half of them TIFF."""
    for label in "ab":
        for index in range(4):
            path = tmp_path / "data" / label / f"{index}.{'npy' if index % 2 else 'tif'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            (write_npy if index % 2 else write_tiff)(path, bands_of(4))
    return tmp_path / "data"


def test_doctor_counts_channels_and_bits(folder) -> None:
    Image.new("RGB", (5, 6)).save(folder / "a" / "rgb.png")
    report = scan(open_data(f"folder:{folder}", val_fraction=0.3), workers=0)
    assert not report.corrupt
    forms = [split.forms for split in report.splits.values()]
    assert sum(one.get("4 channels, 16 bit", 0) for one in forms) == 8
    assert sum(one.get("3 channels, 8 bit", 0) for one in forms) == 1


def test_the_choice_of_channels(folder) -> None:
    data = open_data(f"folder:{folder}", val_fraction=0.3)
    chosen = with_channels(data, channels=4, bit_depth=16)
    images = chosen.channels.apply(Preprocessing())
    assert (images.in_channels, images.bit_depth) == (4, 16)
    found = band_statistics(data.train, channels=4, bit_depth=16)
    assert images.mean == found.mean
    given = with_channels(data, channels=4, bit_depth=16, statistics={"mean": [0.5] * 4, "std": [1] * 4})
    assert given.channels.apply(Preprocessing()).std == (1,) * 4
    with pytest.raises(DataError, match="add --channels N"):
        with_channels(data, bit_depth=32)
    with pytest.raises(DataError, match="8-bit RGB"):
        with_channels(replace(data, task="detection"), channels=4)
    with pytest.raises(UnsuitableImage, match="4 channels, expected 2"):
        with_channels(data, channels=2, bit_depth=16)


def test_a_preview_shows_three_bands(folder) -> None:
    data = open_data(f"folder:{folder}", val_fraction=0.3)
    shown = preview(data.train, 0, PLAIN)
    assert (shown.mode, shown.size) == ("RGB", (5, 6))
    assert np.asarray(shown).min() == 0
    assert np.asarray(shown).max() == 255


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (12, "RGB")])
def test_the_inspection_page_shows_three_bands_or_one(channels: int, mode: str) -> None:
    images = replace(PLAIN, mean=(0.5,) * channels, std=(0.25,) * channels)
    shown = pixels_of(torch.randn(channels, 6, 5), images)
    assert (shown.mode, shown.size) == (mode, (5, 6))


def test_shards_keep_the_files(folder, tmp_path) -> None:
    data = open_data(f"folder:{folder}", val_fraction=0.3)
    summary = write_shards(data, tmp_path / "shards", workers=0)
    assert not summary.corrupt
    sharded: Data = open_data(f"shards:{tmp_path / 'shards'}")
    found = [read_bands(sharded.train.stored(n), 4) for n in range(len(sharded.train))]
    wanted = [read_bands(data.train.stored(n), 4) for n in range(len(data.train))]
    assert sorted(a.tobytes() for a in found) == sorted(a.tobytes() for a in wanted)
