"""Colours that people with any colour vision can distinguish."""

from __future__ import annotations

__all__ = ["colour"]

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (0, 114, 178), (213, 94, 0), (240, 228, 66))
"""The palette of Okabe and Ito. More classes repeat it, darker."""


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class number."""
    red, green, blue = COLOURS[number % len(COLOURS)]
    shade = 0.6 ** (number // len(COLOURS) % 3)
    return int(red * shade), int(green * shade), int(blue * shade)
