"""Watch a network run once, and write down how its feature maps flow."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.parameter import is_lazy

from senet.errors import SenetError
from senet.graph.compiled import plain_modules
from senet.graph.inputs import ExampleInputs, Inputs, guesses
from senet.graph.recorder import Recorder
from senet.graph.replica import replica, running
from senet.graph.values import Graph

__all__ = ["trace"]


def trace(
    model: nn.Module, example_inputs: ExampleInputs | None = None, *, edit: Callable[[nn.Module], object] | None = None
) -> Graph:
    """Run a copy of a network once in evaluation mode and return what was seen; the network isn't touched.

    First a copy without weights runs on the meta device, where nothing is computed. If it can't (because what it does
    next depends on numbers, say), a copy with weights runs on real tensors.

    Args:
        model: Any module; what `torch.compile` has wrapped is watched as it was written.
        example_inputs: One tensor, all positional arguments in a tuple or list, or all arguments by name in a dict;
            None guesses an image from the first convolution.
        edit: Gets the copy before it runs.

    Raises:
        SenetError: It runs on none of them, or has layers without weights yet.
    """
    model = plain_modules(model)[""]
    _refuse_lazy(model)
    candidates = [Inputs.of(example_inputs)] if example_inputs is not None else list(guesses(model))
    first_error: Exception | None = None
    for inputs in candidates:
        for meta in (True, False):
            try:
                graph, built = _record(model, inputs, meta, edit)
            except Exception as error:  # a user's network may refuse in its own way
                first_error = first_error if first_error is not None and meta else error
                continue
            if built:
                raise SenetError(
                    f"{type(model).__name__} builds layers at its first call ({', '.join(built[:4])}): "
                    "run it once on a batch first"
                )
            return graph
    assert first_error is not None
    reason = (str(first_error).strip().splitlines() or [type(first_error).__name__])[0]
    shapes = " or ".join(map(str, candidates))
    hint = "" if example_inputs is not None else "; give example_inputs=(tensor, ...), or a dict of arguments by name"
    raise SenetError(f"{type(model).__name__} can't run on {shapes}: {reason}{hint}") from first_error


def _refuse_lazy(model: nn.Module) -> None:
    paths = [
        path
        for path, module in plain_modules(model).items()
        if any(is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    ]
    if paths:
        raise SenetError(
            f"{type(model).__name__} has layers without weights yet ({', '.join(paths[:4])}): "
            "run it once on a batch first"
        )


def _record(
    model: nn.Module, inputs: Inputs, meta: bool, edit: Callable[[nn.Module], object] | None
) -> tuple[Graph, list[str]]:
    """What was seen, and the layers that weren't there before the run."""
    network = replica(model, meta=meta)
    originals = dict(zip(network.modules(), model.modules(), strict=True))
    if edit is not None:
        edit(network)
    known = set(network.modules())
    recorder = Recorder(network, originals, inputs)
    given = inputs.on("meta") if meta else inputs.copied()
    with running(network, meta=meta), recorder.watching():
        given.call(network)
    after = plain_modules(network).items()
    built = [path for path, m in after if m not in known and next(m.parameters(), None) is not None]
    return recorder.graph, built
