"""The subset of the protobuf wire format that a `.caffemodel` uses, read strictly and without copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Field", "MalformedError", "fields", "varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


class MalformedError(ValueError):
    """The bytes are not a protobuf message."""


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number in the `.proto`.
        kind: Its wire type.
        integer: The value of a varint, else 0.
        content: The bytes of any other field.
    """

    number: int
    kind: int
    integer: int
    content: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message.

    Raises:
        MalformedError: The message ends inside a field, or has an unknown tag.
    """
    position, end, nothing = 0, len(message), message[:0]
    while position < end:
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise MalformedError("a field with number 0")
        if kind == VARINT:
            value, position = _varint(message, position)
            yield Field(number, kind, value, nothing)
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise MalformedError(f"field {number} has wire type {kind}, which is not in use")
        if length > end - position:
            raise MalformedError(f"field {number} needs {length} bytes, {end - position} are left")
        yield Field(number, kind, 0, message[position : position + length])
        position += length


def varints(content: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed field."""
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise MalformedError("it ends inside a number")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise MalformedError("a number of more than ten bytes")
    if value >> 64:
        raise MalformedError("a number of more than 64 bits")
    return value, position
