"""Photographs that are there without a download, for a quick look at what a network computes."""

from __future__ import annotations

from PIL import Image

__all__ = ["sample_images"]

EDGE = 320


def sample_images(count: int) -> list[Image.Image]:
    """Pieces of scikit-learn's two photographs (a temple, a flower), 320x320 pixels, as evenly spread as they can be.

    Args:
        count: How many.
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
