"""Which way up an image is: one answer for evaluation, training, sizes and masks, whatever says it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data import Augmentation, eval_transform, train_transform
from senet.data.images import Stored, load_image, load_stored, upright_size
from senet.data.masks import read_mask
from senet.data.orientation import orientation
from senet.data.transforms import Normalise
from senet.preprocessing import Preprocessing

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "TIFF": ".tif"}
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}

UPRIGHT = np.full((48, 96), 30, np.uint8)
UPRIGHT[:24, :48] = 220  # a bright quarter at the top left


def lying(number: int) -> np.ndarray:
    """The pixels that orientation `number` turns into `UPRIGHT`."""
    u = UPRIGHT
    turns = {1: u, 2: u[:, ::-1], 3: u[::-1, ::-1], 4: u[::-1], 5: u.T, 6: np.rot90(u), 7: u[::-1, ::-1].T,
             8: np.rot90(u, -1)}  # fmt: skip
    return np.ascontiguousarray(turns[number])


def exif(number: int) -> dict[str, object]:
    tags = Image.Exif()
    tags[0x0112] = number
    return {"exif": tags}


def xmp(number: int, *, element: bool = False) -> bytes:
    attribute = "" if element else f' tiff:Orientation="{number}"'
    inside = f"<tiff:Orientation>{number}</tiff:Orientation>" if element else ""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{inside}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def written(image: Image.Image, form: str, says: dict[str, object]) -> Stored:
    """The file, whose metadata says something; of a PNG and a TIFF, XMP has a place of its own."""
    options = LOSSLESS.get(form, {}) | says
    if "xmp" in options and form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    elif "xmp" in options and form == "TIFF":
        options["tiffinfo"] = {700: options.pop("xmp")}
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Stored(f"x{FORMATS[form]}", bytearray(buffer.getvalue()))


SAYS = {
    "exif": exif,
    "xmp attribute": lambda number: {"xmp": xmp(number)},
    "xmp element": lambda number: {"xmp": xmp(number, element=True)},
    "both, and exif counts": lambda number: exif(number) | {"xmp": xmp(number % 8 + 1)},
}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize(
    ("form", "who"),
    [(form, who) for form in FORMATS for who in SAYS if "both" not in who or form in ("JPEG", "PNG", "WEBP")],
)  # Pillow writes both into no TIFF, and no orientation 1 into an AVIF
def test_training_evaluation_and_size_agree(form: str, who: str, number: int, tmp_path: Path) -> None:
    file = written(Image.fromarray(lying(number)).convert("RGB"), form, SAYS[who](number))
    (tmp_path / file.name).write_bytes(file.content)
    assert upright_size(tmp_path / file.name) == (96, 48)
    for seen in (load_stored(file), load_image(tmp_path / file.name)):
        assert seen.size == (96, 48)
        assert np.abs(np.asarray(seen.convert("L")).astype(int) - UPRIGHT).mean() < 3
    size = Preprocessing(size=(48, 96), crop_fraction=1.0)
    whole = {"scale": (1.0, 1.0), "ratio": (2.0, 2.0)}
    evaluated = eval_transform(size)(load_stored(file))
    for augmentation in (
        Augmentation(crop="random-resized", hflip=0, **whole),
        Augmentation(crop="pad", pad=0, hflip=0),
        Augmentation(crop="none", hflip=0),
    ):
        trained = Normalise(size)(train_transform(size, augmentation).decoded(file)[None])[0]
        assert (trained - evaluated).abs().max() < 0.05, augmentation.crop


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("says", [{"xmp": b'tiff:Orientation="0"'}, {"xmp": b'tiff:Orientation="9"'}, {"xmp": b"<x"},
    {"xmp": b'tiff:Orientation="x"'}])  # fmt: skip
def test_an_orientation_that_is_none_changes_nothing(form: str, says: dict[str, object]) -> None:
    file = written(Image.fromarray(UPRIGHT).convert("RGB"), form, says)
    assert load_stored(file).size == (96, 48)
    assert orientation(Image.open(io.BytesIO(file.content))) == 1


DAMAGED = [
    b"",
    b"MM\0*",
    b"MM\0*\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\xff\xff\x12\x01",
    b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
    b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x02\0\6\0\1\0\0\0\0",
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_training_and_evaluation_agree_about_damaged_exif(damage: bytes) -> None:
    """What is damaged counts as upright; XMP beside it makes both say the same, too."""
    for more in ({}, {"xmp": xmp(6)}):
        file = written(Image.fromarray(lying(6)).convert("RGB"), "JPEG", {"exif": b"Exif\0\0" + damage, **more})
        seen = load_stored(file)
        size = Preprocessing(size=seen.size[::-1], crop_fraction=1.0)
        trained = train_transform(size, Augmentation(crop="pad", pad=0, hflip=0)).decoded(file)
        assert torch.equal(trained, train_transform(size, Augmentation(crop="pad", pad=0, hflip=0))(seen))


def test_16_bit_grey_is_turned_too(tmp_path: Path) -> None:
    deep = Image.fromarray(lying(6).astype(np.uint16) * 257)
    (tmp_path / "x.png").write_bytes(written(deep, "PNG", exif(6)).content)
    assert np.array_equal(load_image(tmp_path / "x.png"), UPRIGHT)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("who", [who for who in SAYS if "both" not in who])
def test_a_mask_is_turned_like_an_image(form: str, who: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[form]}"
    path.write_bytes(written(Image.fromarray(lying(6) // 200), form, SAYS[who](6)).content)
    assert np.array_equal(read_mask(path, 2), UPRIGHT // 200)
