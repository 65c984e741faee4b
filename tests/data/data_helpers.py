"""Small trees and sources that the tests of this folder share."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from senet.data import FileSource, MemorySource


def picture(seed: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    """A picture of noise; `size` is (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


def tree(root: Path, counts: dict[str, int], *, suffix: str = ".png") -> Path:
    """`root/CLASS/NUMBER.png`, every picture another one."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(zlib.crc32(f"{root}/{name}/{number}".encode())).save(root / name / f"{number:03d}{suffix}")
    return root


def memory(count: int, classes: int = 3) -> MemorySource:
    """A source of noise pictures."""
    return MemorySource([(picture(i),) for i in range(count)], np.arange(count) % classes, name="noise")


def files(root: Path, count: int) -> FileSource:
    """A source of picture files."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(root / f"{number:03d}.png")
    return FileSource([root / f"{n:03d}.png" for n in range(count)], [n % 3 for n in range(count)])
