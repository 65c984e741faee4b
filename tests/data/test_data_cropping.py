"""The fast way to a random part of a photograph gives what Pillow and torchvision give."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_helpers import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from senet.data import Augmentation, CorruptImage, FileSource, ImageDataset, MemorySource, train_transform
from senet.data.cropping import PaddedCrop, PartialCrop
from senet.data.images import Stored, load_stored
from senet.data.randomness import seeded_rng
from senet.data.transforms import ResizeToCover
from senet.preprocessing import IMAGENET


def photo(seed: int, size: tuple[int, int] = (500, 375)) -> Image.Image:
    """A picture with edges and gradients at all scales, such as a camera gives, and some noise."""
    random = np.random.RandomState(seed)
    image = np.zeros((size[1], size[0], 3), np.float32)
    for edge in (3, 9, 27, 81):
        layer = Image.fromarray(random.randint(0, 256, (edge, edge, 3)).astype(np.uint8))
        image += np.asarray(layer.resize(size, Image.Resampling.BICUBIC), np.float32) / 4
    return Image.fromarray((image + random.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8))


def stored(image: Image.Image, format: str = "JPEG", **options) -> Stored:
    file = io.BytesIO()
    image.save(file, format, **({"quality": 90} if format == "JPEG" else {}) | options)
    return Stored(f"photo.{format.lower()}", bytearray(file.getvalue()))


def reference(file: Stored, crop: PartialCrop, key: int) -> torch.Tensor:
    """Pillow decodes the whole image; torchvision takes the part."""
    whole = load_stored(file).convert("RGB")
    with seeded_rng(key):
        part = v2.RandomResizedCrop(crop.size, crop.scale, crop.ratio, crop.interpolation)(whole)
    return v2.functional.pil_to_tensor(part)


def fast(file: Stored, crop: PartialCrop | PaddedCrop, key: int) -> torch.Tensor:
    with seeded_rng(key):
        return crop.decoded(file)


CROP = PartialCrop((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_the_same_parts_to_a_grey_level_or_two(options, interpolation):
    crop, most = replace(CROP, interpolation=interpolation), 1 if interpolation == InterpolationMode.BILINEAR else 2
    for seed in range(4):
        file = stored(photo(seed), **options)
        difference = (fast(file, crop, seed).int() - reference(file, crop, seed).int()).abs()
        assert difference.max() <= most
        assert difference.float().mean() < 0.05


def test_the_same_part_whatever_the_form():
    """The draws see the size alone, so they don't depend on how the picture is decoded."""
    image = photo(1)
    parts = []
    for form in (stored(image), stored(image, "PNG")):
        with seeded_rng("part"):
            parts.append(CROP.decoded(form).float())
    with seeded_rng("part"):
        parts.append(CROP(image).float())
    assert torch.equal(parts[1], parts[2])
    assert (parts[0] - parts[1]).abs().mean() < 3, "JPEG loses a little, another part would differ by far more"


def test_every_kind_of_file_is_read_as_pillow_reads_it():
    lying = Image.Exif()
    lying[0x0112] = 6
    image = photo(2, (300, 200))
    forms = [
        stored(image, exif=lying),
        stored(image.convert("L")),
        stored(image.convert("CMYK")),
        stored(image.convert("P"), "GIF"),
        stored(image.convert("RGBA"), "PNG"),
        stored(image, "WEBP", lossless=True),
    ]
    for number, file in enumerate(forms):
        difference = (fast(file, CROP, number).int() - reference(file, CROP, number).int()).abs()
        assert difference.max() <= 1, number


def test_a_large_photograph_decoded_smaller_looks_the_same():
    """Scaled by libjpeg: not equal, but a difference that is far below what a network is varied by."""
    crop = replace(CROP, size=(64, 64), scale=(0.5, 1.0))
    errors, shrinks = [], set()
    for seed in range(8):
        file = stored(photo(seed, (1023, 769)))
        with seeded_rng(seed):
            shrinks.add(crop._shrink(crop._part(Image.open(io.BytesIO(file.content)))))
        errors.append((fast(file, crop, seed).float() - reference(file, crop, seed).float()).square().mean().item())
    assert min(shrinks) >= 4
    psnr = 10 * np.log10(255**2 / np.array(errors))
    assert psnr.min() > 38, psnr


SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))
FILL = (10.0, 200.0, 90.0)


def padded(size: tuple[int, int], pad: int) -> PaddedCrop:
    return PaddedCrop(size, pad, FILL, ResizeToCover(size, InterpolationMode.BILINEAR))


@given(size=SIDES, stored_size=st.none() | SIDES, pad=st.integers(0, 50), seed=st.integers(0, 99), form=st.sampled_from(
    ["JPEG", "PNG", "grey JPEG", "lying JPEG"]))  # fmt: skip
def test_a_padded_crop_is_torchvisions_to_the_last_bit(size, stored_size, pad, seed, form):
    image = picture(seed, stored_size or size[::-1]).convert("L" if form == "grey JPEG" else "RGB")
    exif = Image.Exif()
    if form == "lying JPEG":
        exif[0x0112] = 6
    file = stored(image, form.split()[-1], **({"exif": exif} if exif else {}))
    whole = load_stored(file).convert("RGB")
    steps = v2.Compose(
        [ResizeToCover(size, InterpolationMode.BILINEAR), v2.RandomCrop(size, padding=pad, fill=list(FILL))]
    )
    with seeded_rng(seed):
        want = v2.functional.pil_to_tensor(steps(whole))
    assert torch.equal(fast(file, padded(size, pad), seed), want)
    with seeded_rng(seed):
        assert torch.equal(padded(size, pad)(whole), want)


@pytest.mark.parametrize("crop", [CROP, padded((375, 500), 4), padded((32, 32), 4)], ids=["part", "padded", "smaller"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6, 0.99])
def test_a_truncated_file_is_broken_as_in_evaluation(keep, crop):
    file = stored(photo(3))
    del file.content[int(len(file.content) * keep) :]
    with pytest.raises(CorruptImage) as evaluation:
        load_stored(file)
    with pytest.raises(CorruptImage) as training:
        fast(file, crop, 0)
    assert str(training.value) == str(evaluation.value)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(CorruptImage, match="too large"):
        fast(stored(photo(4)), CROP, 0)


def test_files_and_memory_are_varied_alike(tmp_path):
    """The whole transform, on a lossless file and on the same picture in memory."""
    pictures = [picture(seed, (80, 60)) for seed in range(4)]
    for number, image in enumerate(pictures):
        image.save(tmp_path / f"{number}.png")
    files = FileSource([tmp_path / f"{number}.png" for number in range(4)], range(4))
    memory = MemorySource([(image,) for image in pictures], range(4), name="pictures")
    transform = train_transform(
        IMAGENET, Augmentation(color_jitter=0.2, rotation=5, pixel_jitter=9, random_erasing=0.5)
    )
    one, other = (ImageDataset(source, transform, seed=3) for source in (files, memory))
    for index in range(4):
        assert torch.equal(one[1, index].image, other[1, index].image)
        assert one[1, index].label == index
