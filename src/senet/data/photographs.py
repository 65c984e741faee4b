"""Photographs that need no download, for a quick look at a network's outputs."""

from __future__ import annotations

from PIL import Image

__all__ = ["sample_images"]

EDGE = 320


def sample_images(count: int) -> list[Image.Image]:
    """Cut crops of 320x320 pixels, evenly spread, from scikit-learn's two photographs (a temple, a flower).

    Args:
        count: Number of crops.

    Example:
        >>> from senet.data import sample_images
        >>> [image.size for image in sample_images(2)]
        [(320, 320), (320, 320)]
    """
    from sklearn.datasets import load_sample_images

    found = []
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        place = number / max(1, count - 1)
        left, top = (round(place * (length - EDGE)) for length in photograph.size)
        found.append(photograph.crop((left, top, left + EDGE, top + EDGE)))
    return found
