"""Networks by name and by checkpoint: `create_model`, `list_models`, `load_model`."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, overload

import torch
from torch import Tensor, nn

from senet.errors import CheckpointError, SenetError, UnknownNameError, shown
from senet.external import LIBRARIES, external_library
from senet.models import MODELS, Backbone, ConvNet, ModelSpec
from senet.models.backbone import check_features
from senet.preprocessing import Preprocessing
from senet.surgery import InsertionPoint, apply_insertion_points
from senet.weights import CheckpointMetadata, fetch, find_card, load_weights, read_checkpoint
from senet.weights.values import dtype_kind_differs, value_issue
from senet.weights.wrappers import plain_names, strip_wrappers

__all__ = [
    "INSERTED",
    "LoadedModel",
    "build_model",
    "create_model",
    "is_code",
    "list_models",
    "load_model",
    "load_network",
    "mismatches",
    "model_defaults",
    "model_spec",
    "network_of",
]

INSERTED: Final = "retrofit"
"""The option that holds the places where surgery has put attention, as `InsertionPoint.to_dict` writes them."""


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows, sorted, filtered by a shell-style pattern (`"se_resnet*"`)."""
    return sorted(fnmatch.filter(MODELS, pattern))


def model_spec(name: str, /, **options: Any) -> ModelSpec:
    """The description that `create_model` would build, checked; allocates nothing.

    Raises:
        UnknownNameError: No such network, or no such option of it; names the nearest.
        SenetError: An impossible value.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name].changed(options)


@overload
def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    device: torch.device | str | None = None,
    features_only: Literal[False] = False,
    out_stages: None = None,
    **options: Any,
) -> ConvNet: ...
@overload
def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    device: torch.device | str | None = None,
    features_only: Literal[True],
    out_stages: Sequence[int] | None = None,
    **options: Any,
) -> Backbone: ...
def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    device: torch.device | str | None = None,
    features_only: bool = False,
    out_stages: Sequence[int] | None = None,
    **options: Any,
) -> ConvNet | Backbone:
    """Build a network, with freshly initialised weights or with a public checkpoint's.

    Args:
        name: One of `list_models()`.
        pretrained: A tag of `senet.weights.cards(name)`, or True for its first: fetched from the Hugging Face hub
            once, then from its cache; see `docs/weights.md`. The network gets the checkpoint's preprocessing. With
            another `num_classes` the classifier stays freshly initialised, and a warning says so; with other
            `in_channels` the first convolution is adapted, see `load_weights`.
        device: Where to make it; `"meta"` allocates no weights.
        features_only: Without a head: a `Backbone`, which gives the list of the stages' maps.
        out_stages: Numbers of the stages whose maps a backbone gives, ascending; None is all of them.
        **options: Any field of the network's spec instead of its own value: `num_classes`, `in_channels`
            (the `preprocessing` follows it: grey for one channel, statistics repeated in turn for others),
            `attention` (a spec such as `senet.SE(reduction=8)`, or None for the plain network), `placement`,
            `stages` (numbered as in the paper's Table 13: the first residual stage is 2), `output_stride`
            (8, 16 or 32: later stages are dilated instead), and what the family adds (`depths`, `groups`, ...).
            Checked: an option that the network doesn't have is an error.

    Returns:
        The network or its backbone, in training mode; `.spec` says what it is.

    Raises:
        UnknownNameError: No such network, or no such option of it; names the nearest.
        SenetError: An impossible value, or no such checkpoint; raised before anything is allocated.
        CheckpointError: The checkpoint can't be had, or isn't what was published.
    """
    card = None
    if pretrained is not False:
        model_spec(name)  # an unknown network is told before an unknown checkpoint
        card = find_card(name, pretrained)
    spec = model_spec(name, **(card.network_options() if card else {}) | options)
    images = options.get("preprocessing")
    if isinstance(images, Preprocessing) and images.in_channels != spec.in_channels:
        raise SenetError(f"preprocessing is for {images.in_channels} channels and in_channels={spec.in_channels}")
    check_features(spec, features_only, out_stages, options)
    _refuse_place_of_nothing(name, spec, options)
    weights = fetch(card) if card else None
    with torch.device(device if device is not None else torch.get_default_device()):
        network = spec.build()
    if card is not None and weights is not None:
        load_weights(network, weights, layout=card.layout, transfer=True)
    return Backbone(network, out_stages) if features_only else network


def _refuse_place_of_nothing(name: str, spec: ModelSpec, options: Mapping[str, Any]) -> None:
    """Raise a `SenetError` if options say where attention goes, otherwise than by default, and there is none."""
    if spec.attention is not None:
        return
    usual = model_spec(name)
    for option in ("placement", "stages"):
        if options.get(option) not in (None, getattr(usual, option)):
            raise SenetError(f"{option}={options[option]!r} says where attention goes; {name} has none: add attention")


def build_model(
    text: str,
    /,
    *,
    num_classes: int,
    in_channels: int = 3,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build what a command line's `--model` or a checkpoint names, and insert what surgery had inserted.

    A user's function is imported and called with the working directory on `sys.path`, which is then as it was, but for
    what the function's own code put there. It gets `num_classes` and `in_channels` where it takes them.

    Args:
        text: One of `list_models()`, `timm:NAME`, `torchvision:NAME`, or a user's `module:function`.
        num_classes: Outputs.
        in_channels: Channels of the image.
        options: Options of this package's networks, as in `create_model`; and, for any network, `INSERTED`.
        pretrained: With public weights; a classifier for another number of classes is freshly initialised.

    Raises:
        SenetError: The network, module or function isn't there, takes other options, or gives no `nn.Module`.
        CheckpointError: The public weights can't be had.
    """
    options = dict(options or {})
    points = _insertion_points(options.pop(INSERTED, ()))
    size = {"num_classes": num_classes, "in_channels": in_channels}
    if ":" not in text:
        if pretrained:
            model: nn.Module = create_model(text, pretrained=True, **size | options)
        else:
            spec = model_spec(text, **size | options)
            _refuse_place_of_nothing(text, spec, options)
            model = spec.build()
    elif options:
        raise SenetError(f"{next(iter(options))} is an option of this package's networks; {text} is none of them")
    elif (other := external_library(text)) is not None:
        model = other.build(**size, pretrained=pretrained)
    else:
        with importable(os.getcwd()):
            factory = _user_function(text)
            model = factory(**_accepted(text, factory, size))
        if not isinstance(model, nn.Module):
            raise SenetError(f"{text} returned {type(model).__name__}, not a torch.nn.Module")
    apply_insertion_points(model, points)
    return model


def is_code(text: str) -> bool:
    """Whether it is a user's `module:function`, which only the user may choose to run."""
    return ":" in text and text.partition(":")[0] not in LIBRARIES


def model_defaults(text: str) -> tuple[int, Preprocessing]:
    """A network's outputs and the path of its images, where nobody says otherwise; a user's has ImageNet's.

    Raises:
        UnknownNameError: There is no such network; names the nearest.
    """
    if is_code(text):
        return 1000, Preprocessing()
    described = external_library(text) or model_spec(text)
    return described.num_classes, described.preprocessing


def _insertion_points(values: object) -> list[InsertionPoint]:
    if not isinstance(values, list | tuple) or not all(isinstance(point, Mapping) for point in values):
        raise SenetError(f"{INSERTED}={shown(values)} must be a list of places, as Site.to_dict writes them")
    return [InsertionPoint.from_dict(point) for point in values]


class _Entry(str):
    """One entry of `sys.path`, told from equal ones by identity."""

    __slots__ = ()


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """Have a folder first on `sys.path` for a while; entries that others add, move or remove meanwhile stay theirs."""
    entry = _Entry(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # a module may have been written just now
    try:
        yield
    finally:
        for place, other in enumerate(sys.path):
            if other is entry:
                del sys.path[place]
                break


def _user_function(text: str) -> Callable[..., Any]:
    module_name, _, function_name = text.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise SenetError(f"--model {text}: write it as module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SenetError(f"--model {text}: no module {error.name!r} here or among the installed ones") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SenetError(f"--model {text}: {module_name} has no function {function_name!r}")
    return function


def _accepted(text: str, factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `offered` that the user's function takes; it must need no others."""
    signature = inspect.signature(factory)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = {name: value for name, value in offered.items() if takes_all or name in signature.parameters}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise SenetError(
            f"--model {text}: called with {', '.join(given) or 'nothing'}: {error}; give the rest defaults"
        ) from error
    return given


@dataclass(frozen=True)
class LoadedModel:
    """A network as it was trained, ready to use.

    Attributes:
        model: In evaluation mode.
        classes: Names, in the order of the outputs.
        preprocessing: What an image must go through.
        description: All that stands in the checkpoint's JSON.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    description: CheckpointMetadata


def load_model(path: str | os.PathLike[str], *, factory: str | None = None) -> LoadedModel:
    """Load a classifier's checkpoint that a training wrote; `senet.load_model` loads those of other tasks too.

    Args:
        path: The `.safetensors` file or the training's folder (its best).
        factory: `module:function` of the user's own network, where the checkpoint is of one: a file must not
            choose by itself which code is imported.

    Raises:
        CheckpointError: The file can't be used, its weights don't fit the network that it names, or it is no
            classifier.
    """

    def build(name: str, description: CheckpointMetadata) -> nn.Module:
        if description.task != "classification":
            raise SenetError(f"it is of a {description.task} network, and this takes classifiers")
        return build_model(
            name,
            num_classes=len(description.classes),
            in_channels=description.preprocessing.in_channels,
            options=description.options,
        )

    return load_network(path, build, factory=factory)


def load_network(
    path: str | os.PathLike[str], build: Callable[[str, CheckpointMetadata], nn.Module], *, factory: str | None = None
) -> LoadedModel:
    """Load a checkpoint into the network that `build` makes of the network's name and the description.

    Raises:
        CheckpointError: The file can't be used, or its weights don't fit.
    """
    tensors, description = read_checkpoint(Path(path))
    name = network_of(path, description, factory)
    if ":" not in name:  # without memory first: a description may claim any size
        with torch.device("meta"):
            _fitting(_built(path, name, build, description), tensors, f"{path} doesn't fit {name}")
    model = _built(path, name, build, description)
    model.load_state_dict(_fitting(model, tensors, f"{path} doesn't fit {name}"))
    return LoadedModel(model.eval(), description.classes, description.preprocessing, description)


def _built(
    path: str | os.PathLike[str],
    name: str,
    build: Callable[[str, CheckpointMetadata], nn.Module],
    description: CheckpointMetadata,
) -> nn.Module:
    # What a file says can be of any type and size; what a user's own code raises is the user's.
    expected = SenetError if is_code(name) else Exception
    try:
        return build(name, description)
    except expected as error:
        reason = str(error) if isinstance(error, SenetError) else f"{type(error).__name__}: {shown(str(error), 200)}"
        raise CheckpointError(f"{path} describes no network that can be built: {reason}") from error


def _fitting(model: nn.Module, given: Mapping[str, Tensor], message: str) -> dict[str, Tensor]:
    """The weights under the network's keys; an error that begins with `message` if they don't fit."""
    state, names = model.state_dict(), plain_names(model)
    tensors = strip_wrappers(given, message)
    wrong = mismatches({plain: state[key] for plain, key in names.items()}, tensors)
    if wrong:
        raise CheckpointError(f"{message}: {wrong}")
    return {names[plain]: tensor for plain, tensor in tensors.items()}


def network_of(
    path: str | os.PathLike[str], description: CheckpointMetadata, factory: str | None, *, beside: str = ""
) -> str:
    """The network that a checkpoint is of, as `build_model` reads it: the user's factory, else what the file says.

    Args:
        path: Of the checkpoint.
        description: Its description.
        factory: `module:function`, where the user named one.
        beside: What else a command line must then say.

    Raises:
        CheckpointError: The file names code, and the user didn't.
    """
    if factory is None and is_code(description.model):
        raise CheckpointError(
            f"{path} was trained with the network {description.model!r}; "
            f"say {beside}--model {description.model} if you trust that code"
        )
    return factory or description.model


def mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Why weights don't fit a network key by key; empty if they do."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [k for k in own.keys() & given.keys() if own[k].shape != given[k].shape]
    if shapes:
        key = min(shapes)
        return f"{key} is {tuple(given[key].shape)} in the file and {tuple(own[key].shape)} in the network"
    for key in sorted(own.keys() & given.keys()):
        if dtype_kind_differs(given[key], own[key]):
            return f"{key} is {given[key].dtype} in the file and {own[key].dtype} in the network"
        wrong = value_issue(key, given[key], own[key].dtype)
        if wrong:
            return f"{key} {wrong}"
    found = [
        f"{keys[0]} {what} ({len(keys)} in all)"
        for keys, what in ((missing, "is missing"), (extra, "is extra"))
        if keys
    ]
    return "; ".join(found)
