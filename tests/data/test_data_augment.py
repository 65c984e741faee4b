"""Policies, random erasing, repeated augmentation and the size of training images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_helpers import memory, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from senet.data import Augmentation, ImageDataset, Shard, TrainBatchSampler, train_loader, train_transform
from senet.data.balance import balanced_order
from senet.data.policy import POLICIES
from senet.data.randomness import seeded_rng
from senet.data.repeated import repeated_order
from senet.errors import SenetError, UnknownNameError
from senet.preprocessing import CIFAR

PLAIN = Augmentation(crop="none", hflip=0)
FILL = [125.0, 123.0, 114.0]
SHARED = {"interpolation": InterpolationMode.BILINEAR, "fill": FILL}
OF_TORCHVISION = {
    "trivial": v2.TrivialAugmentWide(**SHARED),
    "rand": v2.RandAugment(2, 9, **SHARED),
    "rand:n=3,m=20": v2.RandAugment(3, 20, **SHARED),
    "augmix:severity=5,width=2": v2.AugMix(5, 2, **SHARED),
    "auto": v2.AutoAugment(**SHARED),
}


@pytest.mark.parametrize("spec", OF_TORCHVISION)
def test_a_policy_is_torchvisions(spec):
    p = replace(CIFAR, size=(32, 32), mean=tuple(level / 255 for level in FILL))
    transform = train_transform(p, replace(PLAIN, augment=spec))
    image = picture(1, (32, 32))
    changed = 0
    for key in range(12):
        with seeded_rng(key):
            ours = transform(image)
        with seeded_rng(key):
            theirs = v2.functional.pil_to_tensor(OF_TORCHVISION[spec](image))
        assert torch.equal(ours, theirs)
        changed += not torch.equal(ours, v2.functional.pil_to_tensor(image))
    assert changed > 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rnd", "'rand'"), ("rand:k=2", "options are: n, m"), ("rand:n=0", r"n must be a whole number in 1\.\.14"),
        ("rand:m=31", r"0\.\.30"), ("rand:m", "m must"), ("trivial:n=2", "options are: none"), ("rand:", None),
    ],
)  # fmt: skip
def test_wrong_policies_are_refused(spec, message):
    if message is None:
        assert Augmentation(augment=spec).augment == spec
    else:
        with pytest.raises((SenetError, UnknownNameError), match=message):
            Augmentation(augment=spec)


def loader(*, workers: int, copies: int = 3, augment: str = "rand", order: object = None):
    source = memory(24)
    augmentation = Augmentation(augment=augment, random_erasing=0.5, erasing_value="noise", train_size=16)
    dataset = ImageDataset(
        source, train_transform(CIFAR, augmentation), seed=5, order=repeated_order(24, copies, order)
    )
    return train_loader(dataset, batch_size=6, workers=workers)


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("augment", sorted(POLICIES.keys() - {"none"}))
def test_batches_depend_neither_on_workers_nor_on_what_was_drawn_before(augment):
    whole = loader(workers=0, augment=augment)
    whole.batch_sampler.set_epoch(2)
    expected = list(whole)
    assert len(expected) == 4
    assert expected[0].images.shape == (6, 3, 16, 16)
    rest = loader(workers=2, augment=augment)
    rest.batch_sampler.resume_at(2, 1)
    assert same(list(rest), expected[1:])


def test_the_copies_of_an_image_differ_and_share_a_batch():
    for batch in loader(workers=0):
        assert list(Counter((batch.indices % 24).tolist()).values()) == [3, 3]
        assert len(set(batch.indices.tolist())) == 6
        assert not any(torch.equal(a, b) for n, a in enumerate(batch.images) for b in batch.images[:n])
        assert torch.equal(batch.labels, batch.indices % 24 % 3)


@given(st.integers(8, 100), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_repeated_orders_over_processes(length, copies, world, balanced):
    labels = np.arange(length) % 7 // 6
    order = repeated_order(length, copies, balanced_order(labels) if balanced else None)
    shares = []
    for rank in range(world):
        sampler = TrainBatchSampler(length, 2, seed=1, shard=Shard(rank, world), order=order)
        sampler.set_epoch(3)
        shares.append([index for batch in sampler for _, index in batch])
    drawn = [index for share in shares for index in share]
    assert len({len(share) for share in shares}) == 1
    assert len(set(drawn)) == len(drawn), "each copy has draws of its own"
    whole = order(1, 3)
    assert len(whole) == length
    if not balanced:
        counts = Counter((whole % length).tolist())
        assert sorted(counts.values())[1:] == [copies] * (len(counts) - 1), "but for the last image"
    if world >= copies:
        for share in shares:
            images = [index % length for index in share]
            assert balanced or len(set(images)) == len(images), "copies go to different processes"


def test_epochs_take_different_images():
    order = repeated_order(60, 3)
    first, second = (set((order(0, epoch) % 60).tolist()) for epoch in (0, 1))
    assert len(first) == len(second) == 20
    assert first != second


def erased(**how) -> torch.Tensor:
    """(32, 32, 3) pixels that are no longer white, one row each."""
    p = replace(CIFAR, mean=(0.2, 0.4, 0.6), std=(0.1, 0.05, 0.01))
    transform = train_transform(p, replace(PLAIN, random_erasing=1.0, **how))
    with seeded_rng("erased"):
        pixels = transform(Image.new("RGB", (32, 32), "white"))
    return pixels[:, (pixels != 255).any(0)].T.float()


def test_content_and_area_of_erased_rectangles():
    assert erased(erasing_value="mean").unique(dim=0).tolist() == [[51, 102, 153]]
    assert erased(erasing_value="black").unique(dim=0).tolist() == [[0, 0, 0]]
    noise = erased(erasing_value="noise", erasing_scale=(0.5, 0.5), erasing_ratio=(1, 1))
    assert abs(len(noise) - 512) < 40
    assert torch.allclose(noise.mean(0), torch.tensor([51.0, 102, 153]), atol=5)
    assert torch.allclose(noise.std(0), torch.tensor([25.5, 12.75, 2.55]), rtol=0.2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"erasing_value": "noise"}, "read by random_erasing only; random_erasing is 0"),
        ({"random_erasing": 0.5, "erasing_value": "grey"}, "'mean', 'black', 'noise'"),
        ({"random_erasing": 0.5, "erasing_scale": (0.1, 1.5)}, "fraction of the image's area"),
        ({"random_erasing": 0.5, "erasing_ratio": (2.0, 1.0)}, "erasing_ratio"),
        ({"train_size": -1}, "train_size"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(SenetError, match=message):
        Augmentation(**fields)


def test_turning_erasing_off_drops_its_options():
    noisy = Augmentation(random_erasing=0.5, erasing_value="noise")
    assert noisy.changed(random_erasing=0.0) == Augmentation()
    with pytest.raises(SenetError, match="read by random_erasing only"):
        Augmentation().changed(erasing_value="mean")


@pytest.mark.parametrize("crop", ["random-resized", "pad", "none"])
def test_training_images_of_another_size(crop):
    p = replace(CIFAR, size=(64, 32))
    for size, expected in ((0, (64, 32)), (16, (32, 16)), (48, (96, 48))):
        tensor = train_transform(p, Augmentation(crop=crop, train_size=size))(picture(0, (50, 70)))
        assert tensor.shape == (3, *expected)
