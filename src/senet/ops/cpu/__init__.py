"""The CPU back end: a kernel in C, its loader, and its threads."""

from senet.ops.cpu.library import Choice, call, choose

__all__ = ["Choice", "call", "choose"]
