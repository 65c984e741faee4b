"""The exceptions of this package. All are `ValueError`, and each message gives the problem and a solution."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "DataError", "NotSeenError", "SenetError", "UnknownNameError"]


class SenetError(ValueError):
    """An error in the arguments, with its place and a solution in one or two lines.

    Example:
        >>> import senet
        >>> try:
        ...     senet.create_model("se_resnet50", in_channels=0)
        ... except senet.SenetError as error:
        ...     print(error)
        in_channels=0 must be at least 1
    """


class DataError(SenetError):
    """An unusable data set: missing, empty, with a single class, or with corrupt images.

    Example:
        >>> from senet.errors import DataError
        >>> issubclass(DataError, ValueError)
        True
    """


class CheckpointError(SenetError):
    """An unusable checkpoint: truncated, modified, without metadata, or of another network.

    Example:
        >>> import senet
        >>> senet.load_model("missing.safetensors")
        Traceback (most recent call last):
        ...
        senet.errors.CheckpointError: ...
    """


class NotSeenError(SenetError, KeyError):
    """The gates of a layer were read before the layer ran.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20")
        >>> with senet.record_gates(model) as gates:
        ...     gates["stages.2.0.se"]
        Traceback (most recent call last):
        ...
        senet.errors.NotSeenError: 'stages.2.0.se' hasn't run yet; run the network within the block of `record_gates`
    """

    __str__ = Exception.__str__  # `KeyError.__str__` puts the message in quotes


class UnknownNameError(SenetError):
    """A name isn't in a table. The message gives the nearest names.

    Args:
        kind: The kind of name, in the singular (`"model"`).
        name: The unknown name.
        known: The known names.

    Example:
        >>> import senet
        >>> senet.create_model("se_resnet5O")
        Traceback (most recent call last):
        ...
        senet.errors.UnknownNameError: unknown model 'se_resnet5O'; did you mean 'se_resnet50' or ...?
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        if nearest:
            hint = f"did you mean {' or '.join(repr(n) for n in nearest)}?"
        else:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            hint = f"known: {shown}"
        super().__init__(f"unknown {kind} {str(name)!r}; {hint}")


def from_worker(error: BaseException) -> str:
    """Return the message of an exception. For a data loader's worker, PyTorch's text is the whole traceback."""
    text = str(error)
    if not text.startswith("Caught ") or "Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


def shown(value: object, limit: int = 80) -> str:
    """Format any value for a message, on one line and truncated."""
    try:
        text = repr(value)
    except Exception:  # recursion or digit limits, or a class with a failing `repr`
        text = f"a {type(value).__name__}"
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
