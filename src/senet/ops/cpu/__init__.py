"""The CPU back end: a kernel in C, its loader, and the threads it runs on."""

from senet.ops.cpu.library import Choice, choose, describe, pointer

__all__ = ["Choice", "choose", "describe", "pointer"]
