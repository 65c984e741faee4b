"""Create networks by name, and load them from checkpoints: `create_model`, `list_models`, `load_model`."""

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
from senet.weights import Card, CheckpointMetadata, fetch, find_card, load_weights, read_checkpoint
from senet.weights.catalog import CARDS
from senet.weights.repository import HubAddress, fetch_repository, is_address, local_checkpoint
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
"""The option with the insertion points of `retrofit`, as dictionaries of `InsertionPoint.to_dict`."""


def list_models(pattern: str = "*") -> list[str]:
    """Return the model names that match a shell-style pattern (`"se_resnet*"`), sorted.

    Example:
        >>> import senet
        >>> senet.list_models("se_resnext*32x4d")
        ['se_resnext101_32x4d', 'se_resnext50_32x4d']
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def model_spec(name: str, /, **options: Any) -> ModelSpec:
    """Return the checked spec that `create_model` would build. Allocates nothing.

    Raises:
        UnknownNameError: There is no such network, or it has no such option. Names the nearest.
        SenetError: An impossible value.

    Example:
        >>> from senet.zoo import model_spec
        >>> spec = model_spec("se_resnet50", num_classes=10)
        >>> spec.depths, spec.num_classes
        ((3, 4, 6, 3), 10)
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
    """Build a network, newly initialized or with pretrained weights.

    Args:
        name: One of `list_models()`. Or `hf-hub:user/name`, with an optional `@revision`: a classifier of this package
            that was pushed to the Hugging Face Hub, with its weights. A repository of timm works if it is one of
            `senet.weights.cards`.
        pretrained: A tag of `senet.weights.cards(name)`, or True for the first one. The checkpoint is downloaded from
            the Hugging Face Hub once and then cached (`docs/reference/weights.md`). The network gets the checkpoint's
            preprocessing. For another `num_classes` the classifier is newly initialized, with a warning. For other
            `in_channels` the first convolution is adapted, see `load_weights`.
        device: The device of the parameters. `"meta"` allocates no weights.
        features_only: Return a `Backbone` without a head, which outputs a list with one feature map per stage.
        out_stages: Numbers of the stages that a backbone returns, ascending. None returns all stages.
        **options: Fields of the network's spec. `num_classes`, and `in_channels`, which also adapts `preprocessing`:
            mean statistics for one channel, repeated ones for other numbers. `attention`: a spec such as
            `senet.SE(reduction=8)`, or None for the plain network. `placement` and `stages`: numbered as in the
            paper's Table 13, where the first residual stage is 2. `output_stride`: 8, 16 or 32, with dilated later
            stages. All options of the family, such as `depths` and `groups`. An unknown option is an error.

    Returns:
        The network or its backbone, in training mode. Its spec is `.spec`.

    Raises:
        UnknownNameError: There is no such network, or it has no such option. Names the nearest.
        SenetError: An impossible value, or no such checkpoint. Raised before anything is allocated.
        CheckpointError: The checkpoint can't be downloaded, or differs from the published one.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_resnet18", num_classes=10).eval()
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> eca = senet.create_model("resnet18", attention=senet.ECA(), stages=(4, 5), device="meta")
        >>> sum(isinstance(module, senet.nn.Attention) for module in eca.modules())
        4
    """
    source = _weights_source(name, pretrained)
    name = source.model if source else name
    spec = model_spec(name, **(source.options if source else {}) | options)
    images = options.get("preprocessing")
    if isinstance(images, Preprocessing) and images.in_channels != spec.in_channels:
        raise SenetError(f"preprocessing is for {images.in_channels} channels and in_channels={spec.in_channels}")
    check_features(spec, features_only, out_stages, options)
    _check_placement(name, spec, options)
    weights = source.read() if source else None
    with torch.device(device if device is not None else torch.get_default_device()):
        network = spec.build()
    if source is not None and weights is not None:
        load_weights(network, weights, layout=source.layout, transfer=True)
    return Backbone(network, out_stages) if features_only else network


@dataclass(frozen=True)
class _Weights:
    """Pretrained weights, their network and its options."""

    model: str
    options: dict[str, Any]
    read: Callable[[], Path | Mapping[str, Tensor]]
    layout: str


def _weights_source(name: str, pretrained: bool | str) -> _Weights | None:
    """Return the source of the weights that `create_model` loads, or None for new ones."""
    if is_address(name):
        if not isinstance(pretrained, bool):
            raise SenetError(
                f"pretrained={pretrained!r}: {name} has its own weights; choose a revision with {name}@..."
            )
        return _repository_weights(HubAddress.parse(name))
    if pretrained is False:
        return None
    model_spec(name)  # report an unknown network before an unknown checkpoint
    return _card_weights(find_card(name, pretrained))


def _card_weights(card: Card) -> _Weights:
    return _Weights(card.model, card.network_options(), lambda: fetch(card), card.layout)


def _repository_weights(address: HubAddress) -> _Weights:
    """Return the weights of a repository of the Hub, downloaded and verified.

    Raises:
        CheckpointError: It holds no classifier of this package.
    """
    card = next((card for card in CARDS if card.repo == address.repo and address.revision is None), None)
    if card is not None:
        return _card_weights(card)
    tensors, metadata = read_checkpoint(fetch_repository(address))
    if metadata.model not in MODELS or not metadata.is_classifier or INSERTED in metadata.options:
        raise CheckpointError(
            f"{address} holds no plain classifier of senet.list_models(); use senet.load_model({str(address)!r})"
        )
    size = {"num_classes": len(metadata.classes), "in_channels": metadata.preprocessing.in_channels}
    options = {**metadata.options, **size, "preprocessing": metadata.preprocessing}
    return _Weights(metadata.model, options, lambda: tensors, "senet")


def _check_placement(name: str, spec: ModelSpec, options: Mapping[str, Any]) -> None:
    """Raise a `SenetError` if options place attention in a network without attention."""
    if spec.attention is not None:
        return
    default = model_spec(name)
    for option in ("placement", "stages"):
        if options.get(option) not in (None, getattr(default, option)):
            raise SenetError(f"{option}={options[option]!r} places attention, but {name} has none; add attention")


def build_model(
    text: str,
    /,
    *,
    num_classes: int,
    in_channels: int = 3,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build the network that `--model` or a checkpoint names, and insert its retrofitted attention.

    A user's function is imported and called with the working directory on `sys.path`. The path is then restored, except
    for changes by the function's own code. The function receives `num_classes` and `in_channels` if it has these
    parameters.

    Args:
        text: One of `list_models()`, `timm:NAME`, `torchvision:NAME`, or a user's `module:function`.
        num_classes: Number of outputs.
        in_channels: Channels of the image.
        options: Options of this package's networks, as in `create_model`, and `INSERTED` for any network.
        pretrained: Whether to load public weights. A classifier for another number of classes is newly initialized.

    Raises:
        SenetError: The network, module or function doesn't exist, has other options, or returns no `nn.Module`.
        CheckpointError: The public weights can't be downloaded.

    Example:
        >>> from senet.zoo import build_model
        >>> build_model("torchvision:resnet18", num_classes=10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    options = dict(options or {})
    points = _insertion_points(options.pop(INSERTED, ()))
    size = {"num_classes": num_classes, "in_channels": in_channels}
    if ":" not in text:
        if pretrained:
            model: nn.Module = create_model(text, pretrained=True, **size | options)
        else:
            spec = model_spec(text, **size | options)
            _check_placement(text, spec, options)
            model = spec.build()
    elif options:
        raise SenetError(f"{next(iter(options))} is an option of this package's networks, not of {text}")
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
    """Whether it is a user's `module:function`, which only the user may run."""
    return ":" in text and text.partition(":")[0] not in LIBRARIES


def model_defaults(text: str) -> tuple[int, Preprocessing]:
    """Return the default number of outputs and preprocessing of a network. A user's network has ImageNet's.

    Raises:
        UnknownNameError: There is no such network. Names the nearest.
    """
    if is_code(text):
        return 1000, Preprocessing()
    described = external_library(text) or model_spec(text)
    return described.num_classes, described.preprocessing


def _insertion_points(values: object) -> list[InsertionPoint]:
    if not isinstance(values, list | tuple) or not all(isinstance(point, Mapping) for point in values):
        raise SenetError(f"{INSERTED}={shown(values)} must be a list of insertion points (dictionaries)")
    return [InsertionPoint.from_dict(point) for point in values]


class _Entry(str):
    """One entry of `sys.path`, distinguished from equal entries by identity."""

    __slots__ = ()


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """Put a folder first on `sys.path` within the block. Changes of other entries are kept."""
    entry = _Entry(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # a module may have been written just now
    try:
        yield
    finally:
        for index, other in enumerate(sys.path):
            if other is entry:
                del sys.path[index]
                break


def _user_function(text: str) -> Callable[..., Any]:
    module_name, _, function_name = text.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise SenetError(f"--model {text}: must have the form module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SenetError(f"--model {text}: no module {error.name!r} in the working directory or installed") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SenetError(f"--model {text}: {module_name} has no function {function_name!r}")
    return function


def _accepted(text: str, factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return the offered arguments that the user's function accepts. It must not require others."""
    signature = inspect.signature(factory)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = {name: value for name, value in offered.items() if takes_all or name in signature.parameters}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise SenetError(
            f"--model {text}: called with {', '.join(given) or 'no arguments'}: {error}; the others need defaults"
        ) from error
    return given


@dataclass(frozen=True)
class LoadedModel:
    """A trained network, ready for inference.

    Attributes:
        model: The network in evaluation mode.
        classes: Class names, in the order of the outputs.
        preprocessing: The preprocessing of its images.
        metadata: The checkpoint metadata.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    metadata: CheckpointMetadata

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Write the network to a repository of the Hugging Face Hub, as one commit.

        Args:
            repo: `user/name`.
            **options: `private`, `revision`, `licence`, `evaluation` and `inspection`, as in
                `senet.integrations.hub.push`.

        Returns:
            The address of the commit.

        Raises:
            SenetError: The network can't be rebuilt from its metadata, or the Hub refuses.
        """
        from senet.integrations.hub import push

        return push(self.model, self.metadata, repo, **options)

    def predict(self, images: Any, *, batch_size: int = 64) -> list[Any]:
        """Predict images, with the preprocessing of the training, on the network's own device.

        Args:
            images: A path, a Pillow image, a uint8 array (H, W, 3) or (H, W), a list of these, a uint8 array
                (N, H, W, 3), or preprocessed images, a float tensor (N, C, H, W).
            batch_size: Images in a batch.

        Returns:
            A list with one entry for each image, also for a single one. A classifier gives a
            `senet.inference.Classification`, with `label`, `probability` and `probabilities`. A multi-label classifier
            gives a `senet.inference.MultiLabelPrediction`, with `labels` and `probabilities`. A detector gives a
            dictionary with `boxes`, `scores` and `labels` from 0, a segmentation network (H, W) class numbers, both at
            the image's own size.

        Raises:
            SenetError: The images have another form, or one is unreadable.

        Example:
            >>> import numpy as np
            >>> import senet
            >>> from senet.preprocessing import CIFAR
            >>> from senet.weights import CheckpointMetadata
            >>> from senet.zoo import LoadedModel
            >>> metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
            >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
            >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
            >>> pixels = np.zeros((48, 64, 3), dtype=np.uint8)
            >>> [prediction] = loaded.predict(pixels)
            >>> prediction.label in ("cat", "dog"), loaded.predict_proba([pixels] * 3).shape, loaded.embed(pixels).shape
            (True, torch.Size([3, 2]), torch.Size([1, 64]))
        """
        found: list[Any] = importlib.import_module("senet.inference.arrays").predict(
            self, images, batch_size=batch_size
        )
        return found

    def predict_proba(self, images: Any, *, batch_size: int = 64) -> Tensor:
        """Return a classifier's probabilities, (N, classes) in the order of `classes`, on the CPU. See `predict`.

        Raises:
            SenetError: As `predict`, or the network is no classifier.
        """
        found: Tensor = importlib.import_module("senet.inference.arrays").predict_proba(
            self, images, batch_size=batch_size
        )
        return found

    def embed(self, images: Any, *, batch_size: int = 64) -> Tensor:
        """Return a classifier's features, (N, features) on the CPU: the input of its last linear layer. See `predict`.

        Raises:
            SenetError: As `predict`, or the network is no classifier, or it has no such layer, as an exported file.
        """
        found: Tensor = importlib.import_module("senet.inference.arrays").embed(self, images, batch_size=batch_size)
        return found


def load_model(path: str | os.PathLike[str], *, factory: str | None = None) -> LoadedModel:
    """Load a classifier's checkpoint from training. `senet.load_model` also loads checkpoints of other tasks.

    Args:
        path: The `.safetensors` file, the training's folder (loads the best checkpoint), or `hf://user/name`.
        factory: `module:function` of the user's own network, if the checkpoint needs it. A file must not choose by
            itself which code is imported.

    Raises:
        CheckpointError: The file is unusable, its weights don't fit the network, or it isn't a classifier.
    """

    def build(name: str, metadata: CheckpointMetadata) -> nn.Module:
        if not metadata.is_classifier:
            raise SenetError(f"it is a {metadata.task} network, not a classifier")
        return build_model(
            name,
            num_classes=len(metadata.classes),
            in_channels=metadata.preprocessing.in_channels,
            options=metadata.options,
        )

    return load_network(path, build, factory=factory)


def load_network(
    path: str | os.PathLike[str], build: Callable[[str, CheckpointMetadata], nn.Module], *, factory: str | None = None
) -> LoadedModel:
    """Load a checkpoint into the network that `build` creates from the network's name and the metadata.

    Raises:
        CheckpointError: The file is unusable, or its weights don't fit.
    """
    tensors, metadata = read_checkpoint(local_checkpoint(path))
    name = network_of(path, metadata, factory)
    if ":" not in name:  # first on the meta device, because metadata may claim any size
        with torch.device("meta"):
            _fitting(_built(path, name, build, metadata), tensors, f"{path} doesn't fit {name}")
    model = _built(path, name, build, metadata)
    model.load_state_dict(_fitting(model, tensors, f"{path} doesn't fit {name}"))
    return LoadedModel(model.eval(), metadata.classes, metadata.preprocessing, metadata)


def _built(
    path: str | os.PathLike[str],
    name: str,
    build: Callable[[str, CheckpointMetadata], nn.Module],
    metadata: CheckpointMetadata,
) -> nn.Module:
    # Values of a file can have any type and size. Errors of a user's own code are passed on.
    expected = SenetError if is_code(name) else Exception
    try:
        return build(name, metadata)
    except expected as error:
        reason = str(error) if isinstance(error, SenetError) else f"{type(error).__name__}: {shown(str(error), 200)}"
        raise CheckpointError(f"{path} describes a network that can't be built: {reason}") from error


def _fitting(model: nn.Module, given: Mapping[str, Tensor], message: str) -> dict[str, Tensor]:
    """Return the weights under the network's keys. The error for other weights begins with `message`."""
    state, names = model.state_dict(), plain_names(model)
    tensors = strip_wrappers(given, message)
    wrong = mismatches({plain: state[key] for plain, key in names.items()}, tensors)
    if wrong:
        raise CheckpointError(f"{message}: {wrong}")
    return {names[plain]: tensor for plain, tensor in tensors.items()}


def network_of(
    path: str | os.PathLike[str], metadata: CheckpointMetadata, factory: str | None, *, beside: str = ""
) -> str:
    """Return the network of a checkpoint for `build_model`: the user's factory, or the name in the file.

    Args:
        path: Path of the checkpoint.
        metadata: Its metadata.
        factory: `module:function`, if the user gave one.
        beside: Further options for the suggested command line.

    Raises:
        CheckpointError: The file names code, and the user gave no factory.
    """
    if factory is None and is_code(metadata.model):
        raise CheckpointError(
            f"{path} was trained with the network {metadata.model!r}; "
            f"use {beside}--model {metadata.model} if you trust this code"
        )
    return factory or metadata.model


def mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return why weights don't match a network's keys, shapes and types. Empty if they do."""
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
        f"{keys[0]} {problem} ({len(keys)} in total)"
        for keys, problem in ((missing, "is missing"), (extra, "is unexpected"))
        if keys
    ]
    return "; ".join(found)
