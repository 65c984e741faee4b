from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_helpers import picture
from PIL import Image
from timm.data import create_transform
from torchvision.models import Inception_V3_Weights, ResNet50_Weights

from senet.data import Augmentation, Normalise, eval_transform, train_transform
from senet.data.policy import POLICIES
from senet.data.randomness import seeded_rng
from senet.errors import SenetError
from senet.preprocessing import CIFAR, IMAGENET, IMAGENET_CAFFE, Preprocessing

PLAIN = Augmentation(crop="none", hflip=0)


def training(p, augmentation):
    """What training sees of an image: the transform, then the normalisation of its batch."""
    transform, normalise = train_transform(p, augmentation), Normalise(p)
    return lambda image: normalise(transform(image)[None])[0]


@pytest.mark.parametrize("size", [(300, 400), (500, 333), (100, 90), (224, 224), (1000, 257)])
def test_equals_torchvisions_own_preset(size):
    image = picture(1, size)
    assert torch.equal(eval_transform(IMAGENET)(image), ResNet50_Weights.IMAGENET1K_V1.transforms()(image))


def test_equals_torchvisions_presets_of_other_sizes():
    image = picture(2, (401, 323))
    inception = replace(IMAGENET, size=(299, 299), crop_fraction=299 / 342)
    assert torch.equal(eval_transform(inception)(image), Inception_V3_Weights.IMAGENET1K_V1.transforms()(image))
    newer = replace(IMAGENET, crop_fraction=224 / 232)
    assert torch.equal(eval_transform(newer)(image), ResNet50_Weights.IMAGENET1K_V2.transforms()(image))


@pytest.mark.parametrize(
    ("pixels", "crop"), [(224, 0.9), (224, 0.95), (288, 0.95), (299, 0.8975), (224, 0.875), (96, 0.96)]
)
@pytest.mark.parametrize("size", [(401, 323), (323, 401), (500, 500)])
def test_equals_timms_own_transform(pixels, crop, size):
    timm = create_transform(
        (3, pixels, pixels), interpolation="bicubic", crop_pct=crop, mean=IMAGENET.mean, std=IMAGENET.std
    )
    own = replace(IMAGENET, size=(pixels, pixels), crop_fraction=crop, interpolation="bicubic")
    assert torch.equal(eval_transform(own)(picture(4, size)), timm(picture(4, size)))


def test_a_size_is_rounded_down_as_timm_does():
    covered = [
        Preprocessing(size=(s, s), crop_fraction=c).covered_size[0] for s, c in ((224, 0.9), (224, 0.95), (192, 0.95))
    ]
    assert covered == [248, 235, 202]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_equals_numpy_and_pillow(interpolation):
    """256 -> centre 224 by hand, in 0..255 and BGR as Caffe's networks want it."""
    image = picture(3, (320, 280))
    p = replace(IMAGENET_CAFFE, interpolation=interpolation, std=(2.0, 3.0, 4.0))
    resized = np.asarray(image.resize((int(256 * 320 / 280), 256), getattr(Image.Resampling, interpolation.upper())))
    top, left = (resized.shape[0] - 224) // 2, round((resized.shape[1] - 224) / 2)
    bgr = resized[top : top + 224, left : left + 224, ::-1].astype(np.float32)
    expected = ((bgr - np.float32([104, 117, 123])) / np.float32([2, 3, 4])).transpose(2, 0, 1)
    actual = eval_transform(p)(image)
    assert actual.shape == (3, 224, 224)
    assert actual.dtype == torch.float32
    assert np.allclose(actual.numpy(), expected, atol=1e-5)


def test_value_range_other_than_1_and_255():
    p = replace(CIFAR, value_range=2.0, mean=(1.0, 1.0, 1.0), std=(0.5, 0.5, 0.5))
    white = eval_transform(p)(Image.new("RGB", (32, 32), "white"))
    assert torch.allclose(white, torch.full((3, 32, 32), (2.0 - 1.0) / 0.5))


def test_grey_networks_get_one_channel_and_colour_networks_three():
    grey = replace(CIFAR, channel_order="L", mean=(0.5,), std=(0.25,))
    assert eval_transform(grey)(picture(0, (32, 32))).shape == (1, 32, 32)
    three = eval_transform(replace(CIFAR, mean=(0, 0, 0), std=(1, 1, 1)))(picture(0, (32, 32), "L"))
    assert torch.equal(three[0], three[2])


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 64), (1000, 20)])
def test_rectangles_are_covered_without_distortion(shape):
    p = Preprocessing(size=(40, 80), crop_fraction=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    assert eval_transform(p)(picture(0, shape)).shape == (3, 40, 80)
    disc = Image.new("L", (201, 201))
    disc.putdata([255 * ((i % 201 - 100) ** 2 + (i // 201 - 100) ** 2 < 900) for i in range(201 * 201)])
    seen = eval_transform(p)(disc)[0] > 0.5
    height, width = seen.any(1).sum().item(), seen.any(0).sum().item()
    assert abs(height - width) <= 1


def test_a_sliver_needs_no_gigabytes():
    tensor = eval_transform(IMAGENET)(picture(0, (60_000, 1)))
    assert tensor.shape == (3, 224, 224)


def test_no_augmentation_is_the_evaluation():
    image = picture(5, (300, 260))
    assert torch.equal(training(IMAGENET, PLAIN)(image), eval_transform(IMAGENET)(image))


ALL = {
    "random-resized": Augmentation(hflip=0),
    "pad": Augmentation(crop="pad", pad=4, hflip=0),
    "hflip": replace(PLAIN, hflip=0.5),
    "rotation": replace(PLAIN, rotation=10),
    "translate": replace(PLAIN, translate=0.1),
    "color_jitter": replace(PLAIN, color_jitter=0.4),
    "pixel_jitter": replace(PLAIN, pixel_jitter=20),
    "random_erasing": replace(PLAIN, random_erasing=0.5),
    "vflip": replace(PLAIN, vflip=0.5),
    "cutout": replace(PLAIN, cutout=12),
    **{name: replace(PLAIN, augment=name) for name in POLICIES if name != "none"},
    "erasing noise": replace(PLAIN, random_erasing=0.5, erasing_value="noise"),
}


@pytest.mark.parametrize("order", ["RGB", "L"])
@pytest.mark.parametrize("name", ALL)
def test_each_augmentation_varies_and_repeats(name, order):
    channels = 3 if order == "RGB" else 1
    p = Preprocessing((32, 32), 1.0, mean=(0.4,) * channels, std=(0.2,) * channels, channel_order=order)
    transform = training(p, ALL[name])
    image = picture(7, (36, 34))

    def draw(key: int) -> torch.Tensor:
        with seeded_rng(key):
            return transform(image)

    draws = [draw(key) for key in range(16)]
    assert all(torch.equal(draw(key), tensor) for key, tensor in enumerate(draws))
    assert any(not torch.equal(tensor, draws[0]) for tensor in draws)
    assert all(tensor.shape == (channels, 32, 32) for tensor in draws)


@pytest.mark.parametrize("change", [{}, {"channel_order": "BGR"}, {"value_range": 255.0, "mean": (100, 110, 120)}])
def test_training_normalises_as_evaluation_does_to_the_last_bit(change):
    p = replace(IMAGENET, crop_fraction=1.0, **change)
    images = [picture(seed, (300, 224)) for seed in range(3)]
    expected = torch.stack([eval_transform(p)(image) for image in images])
    transform = train_transform(p, PLAIN)
    batch = torch.stack([transform(image) for image in images])
    assert batch.dtype == torch.uint8
    assert torch.equal(Normalise(p)(batch), expected)
    channels_last = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Normalise(p)(channels_last), expected)
    assert Normalise(p)(expected) is expected, "an evaluation's images are normalised already"


@pytest.mark.parametrize("how", [{"random_erasing": 1.0}, {"cutout": 12}])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_erased_is_the_mean_colour(order, how):
    p = replace(IMAGENET, size=(32, 32), channel_order=order, mean=(0.2, 0.4, 0.6))
    with seeded_rng("erased"):
        seen = training(p, replace(PLAIN, **how))(Image.new("RGB", (32, 32), "white"))
    erased = (seen[0] < 1).nonzero()
    assert len(erased) > 10
    assert all(seen[:, y, x].abs().max() < 0.5 / 255 / 0.224 for y, x in erased.tolist())
    assert len(erased) < 32 * 32, "the rest is white"


def test_flip_is_a_flip_with_its_probability():
    p = replace(CIFAR, mean=(0, 0, 0), std=(1, 1, 1))
    image = picture(8, (32, 32))
    plain = eval_transform(p)(image)
    transform = training(p, replace(PLAIN, hflip=0.25))
    flipped = 0
    with seeded_rng("flips"):
        for _ in range(400):
            tensor = transform(image)
            is_flip = torch.equal(tensor, plain.flip(2))
            assert is_flip or torch.equal(tensor, plain)
            flipped += is_flip
    assert 60 < flipped < 140


def test_padded_crop_is_a_window_of_the_image_in_a_border_of_zeros_after_normalising():
    p = replace(CIFAR, mean=(51 / 255, 102 / 255, 153 / 255))
    image = picture(9, (32, 32))
    padded = torch.nn.functional.pad(eval_transform(p)(image), (4, 4, 4, 4))
    windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
    transform = training(p, Augmentation(crop="pad", hflip=0))
    places = set()
    with seeded_rng("windows"):
        for _ in range(60):
            same = ((windows - transform(image)).abs() < 1e-5).flatten(2).all(2).nonzero().tolist()
            assert len(same) == 1
            places.add(tuple(same[0]))
    assert len(places) > 30


def test_pixel_jitter_shifts_whole_channels_by_at_most_its_levels():
    p = replace(CIFAR, mean=(0, 0, 0), std=(1, 1, 1), value_range=255.0)
    grey = Image.new("RGB", (32, 32), (100, 100, 100))
    transform = training(p, replace(PLAIN, pixel_jitter=20))
    with seeded_rng("color_jitter"):
        shifts = torch.stack([transform(grey) - 100 for _ in range(100)])
    assert torch.equal(shifts.amax((2, 3)), shifts.amin((2, 3)))
    assert shifts.abs().max() in (19, 20)
    assert shifts.min() < -15
    assert (shifts[:, 0] != shifts[:, 1]).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "middle"), ("hflip", 1.5), ("translate", -0.1), ("random_erasing", 2), ("pad", -1), ("rotation", -5),
        ("color_jitter", -1), ("pixel_jitter", -1), ("scale", (0.5, 0.1)), ("scale", (0, 1)), ("ratio", (2, 1)),
        ("scale", (0.5,)), ("scale", 0.5), ("scale", (0.1, 0.2, 0.3)), ("scale", (0.5, 1.5)), ("scale", "ab"),
        ("ratio", 1), ("ratio", (1,)), ("ratio", (1, float("inf"))), ("scale_jitter", 1), ("scale_jitter", (1,)),
        ("scale_jitter", (float("nan"), 1)), ("rotation", float("nan")), ("color_jitter", float("inf")),
        ("pixel_jitter", float("nan")), ("hflip", float("nan")),
    ],
)  # fmt: skip
def test_wrong_augmentation_is_named(field, value):
    with pytest.raises(SenetError, match=field):
        Augmentation(**{field: value})


@pytest.mark.parametrize("fields", [{"pad": 2}, {"crop": "pad", "scale": (0.5, 1.0)}, {"crop": "none", "pad": 8}])
def test_a_field_that_the_crop_does_not_read_is_refused(fields):
    with pytest.raises(ValueError, match="is read by crop="):
        Augmentation(**fields)


def test_a_new_crop_brings_its_own_defaults():
    photos = Augmentation(crop="random-resized", scale=(0.25, 1.0), color_jitter=0.2)
    assert photos.changed(crop="pad", pad=2) == Augmentation(crop="pad", pad=2, color_jitter=0.2)
    assert photos.changed(crop="random-resized", ratio=(1.0, 2.0)).scale == (0.25, 1.0)
    assert photos.changed() == photos


@pytest.mark.parametrize("given", [{"scale": (0.08, 1.0)}, {"crop": "none", "pad": 4}, {"scale_jitter": (0.5, 2.0)}])
def test_a_field_without_effect_is_refused_whatever_its_value(given):
    with pytest.raises(SenetError, match="is read by crop="):
        Augmentation(crop="pad").changed(**given)


def test_augmentation_costs_neither_torch_nor_torchvision():
    code = (
        "import sys; from senet.data.augmentation import Augmentation; from senet.data import Augmentation;"
        "print([m for m in ('torch', 'torchvision', 'PIL', 'numpy', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import senet.data

    homes = [name for names in senet.data.MODULES.values() for name in names]
    assert sorted(homes) == sorted(senet.data.__all__)
    assert all(getattr(senet.data, name).__name__ == name for name in senet.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        senet.data.nothing  # noqa: B018
