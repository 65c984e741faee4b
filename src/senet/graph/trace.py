"""Run a network once and record the flow of its feature maps."""

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
    """Run a copy of a network once in evaluation mode, and return the recorded graph. The network doesn't change.

    First a copy without weights runs on the meta device, where nothing is computed. If this fails (for example, because
    the network branches on values), a copy with weights runs on real tensors.

    Args:
        model: Any module. Wrappers of `torch.compile` are ignored.
        example_inputs: One tensor, a tuple or list of all positional arguments, or a dict of all arguments by name.
            None guesses an image from the first convolution.
        edit: Called with the copy before it runs.

    Raises:
        SenetError: The network runs on none of the inputs, or has uninitialized layers.

    Example:
        >>> from torch import nn
        >>> from senet.graph import trace
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
        >>> [value.op for value in graph.values]
        ['input', 'convolution', 'relu']
    """
    model = plain_modules(model)[""]
    _refuse_lazy(model)
    candidates = [Inputs.of(example_inputs)] if example_inputs is not None else list(guesses(model))
    first_error: Exception | None = None
    for inputs in candidates:
        for meta in (True, False):
            try:
                graph, built = _record(model, inputs, meta, edit)
            except Exception as error:  # a user's network may raise anything
                first_error = first_error if first_error is not None and meta else error
                continue
            if built:
                raise SenetError(
                    f"{type(model).__name__} creates layers at its first call ({', '.join(built[:4])}): "
                    "run it once on a batch first"
                )
            return graph
    assert first_error is not None
    reason = (str(first_error).strip().splitlines() or [type(first_error).__name__])[0]
    shapes = " or ".join(map(str, candidates))
    hint = "" if example_inputs is not None else "; pass example_inputs=(tensor, ...), or a dict of arguments by name"
    raise SenetError(f"{type(model).__name__} can't run on {shapes}: {reason}{hint}") from first_error


def _refuse_lazy(model: nn.Module) -> None:
    paths = [
        path
        for path, module in plain_modules(model).items()
        if any(is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    ]
    if paths:
        raise SenetError(
            f"{type(model).__name__} has uninitialized layers ({', '.join(paths[:4])}): run it once on a batch first"
        )


def _record(
    model: nn.Module, inputs: Inputs, meta: bool, edit: Callable[[nn.Module], object] | None
) -> tuple[Graph, list[str]]:
    """Return the graph, and the layers that the run created."""
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
