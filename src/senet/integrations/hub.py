"""Publish networks on the Hugging Face Hub: weights, configuration and model card in one repository."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import CheckpointError, SenetError
from senet.integrations.model_card import model_card, without_path
from senet.integrations.timm_config import PREFIX, first_convolution, timm_config
from senet.models import MODELS, ConvNet
from senet.nn.optimized import refuse_optimized
from senet.weights import CheckpointMetadata
from senet.weights.checkpoint import FORMAT, HUB_CONFIG, HUB_KEY, HUB_WEIGHTS, metadata_to_dict, write_tensors
from senet.weights.files import sha256, write_atomically
from senet.weights.hub import first_line
from senet.weights.repository import HubAddress
from senet.weights.strict_json import dump, parse_object
from senet.weights.wrappers import plain_names, unwrapped

__all__ = ["CARD", "described", "push", "write_folder"]

CARD = "README.md"
"""The model card."""


def push(
    model: nn.Module,
    metadata: CheckpointMetadata,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str = "",
    evaluation: Mapping[str, Any] | None = None,
    inspection: Mapping[str, Any] | None = None,
) -> str:
    """Write a network to a repository of the Hub, as one commit. A missing repository or branch is made.

    Needs a login of `huggingface_hub` (`hf auth login`, or `HF_TOKEN` in the environment).

    Args:
        model: The network.
        metadata: Its metadata. Folders of data sets are published without their path.
        repo: `user/name`.
        private: Whether a new repository is private.
        revision: The branch. None is the main branch.
        licence: SPDX identifier of the weights' licence.
        evaluation: Result of `senet.inference.evaluate` as a dictionary, with `data` and `split`.
        inspection: `senet.inspection.Inspection.summary` of its gates.

    Returns:
        The address of the commit.

    Raises:
        SenetError: The network can't be rebuilt from the metadata, or the Hub refuses. Nothing is uploaded.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if "@" in repo or HubAddress.parse(repo).repo != repo:
        raise SenetError(f"{repo!r} is not a name of a repository; write user/name, and the branch as revision")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder, model, metadata, name=repo, licence=licence, evaluation=evaluation, inspection=inspection)
        files = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
        with _explained(repo):
            api = HfApi(library_name="senet")
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            # A single commit. `upload_folder` may make several, and a reader could see the new weights alone.
            commit = api.create_commit(repo, files, revision=revision, commit_message=f"{metadata.model} from senet")
    return str(commit.commit_url)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403)
        remedy = "; log in with `hf auth login` as a user who may write there" if refused else ""
        raise SenetError(f"{repo} can't be written to: {first_line(error)}{remedy}") from error
    except (OSError, ValueError, RuntimeError) as error:  # no network, no login, a failed upload
        raise SenetError(f"{repo} can't be written to: {first_line(error)}") from error


def write_folder(
    folder: str | os.PathLike[str],
    model: nn.Module,
    metadata: CheckpointMetadata,
    *,
    name: str,
    licence: str = "",
    evaluation: Mapping[str, Any] | None = None,
    inspection: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a repository to a folder: `model.safetensors`, `config.json`, `README.md`.

    `senet.load_model` reads the folder. So does timm (`local-dir:FOLDER`), if the network is a classifier of this
    package. timm's images are RGB in 0..1, so the weights of a network for BGR get their first channels in that order.

    Args:
        folder: Is made if it is missing.
        model: The network.
        metadata: Its metadata.
        name: `user/name`, for the model card.
        licence: As in `push`.
        evaluation: As in `push`.
        inspection: As in `push`.

    Raises:
        SenetError: The network can't be rebuilt from the metadata.
        CheckpointError: Writing failed.
    """
    folder = Path(folder)
    refuse_optimized(model, "push")
    model = unwrapped(model)
    state = model.state_dict()
    tensors = {plain: state[key] for plain, key in plain_names(model).items()}
    metadata = _without_paths(metadata)
    config: dict[str, Any] = {}
    if _is_ours(metadata):
        tensors, metadata = _in_rgb(tensors, metadata)
        config = _config(tensors, metadata)
    text = model_card(
        model, metadata, name=name, licence=licence, timm=bool(config), evaluation=evaluation, inspection=inspection
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / HUB_WEIGHTS, tensors)
        own = {"format": FORMAT, "sha256": sha256(folder / HUB_WEIGHTS)} | metadata_to_dict(metadata)
        content = dump(config | {HUB_KEY: own})
        parse_object(content)
        write_atomically(folder / HUB_CONFIG, lambda path: path.write_text(content, encoding="utf-8"))
        write_atomically(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written to: {error.strerror}") from error


def described(model: ConvNet, classes: tuple[str, ...]) -> CheckpointMetadata:
    """Return the metadata of a network of `create_model`. Without class names the outputs are numbered.

    Raises:
        SenetError: The network has no name in `list_models()`, or another number of classes.
    """
    spec = model.spec
    if spec.name not in MODELS:
        raise SenetError(f"{spec.name or 'this network'} is none of senet.list_models(), so it can't be rebuilt")
    if not spec.num_classes:
        raise SenetError("a network without a classifier can't be pushed; it needs num_classes of at least 1")
    classes = classes or tuple(map(str, range(spec.num_classes)))
    if len(classes) != spec.num_classes:
        raise SenetError(f"{len(classes)} class names for {spec.num_classes} outputs")
    options = spec.differences(MODELS[spec.name])
    for known in ("num_classes", "in_channels", "preprocessing"):
        options.pop(known, None)
    return CheckpointMetadata(model=spec.name, options=options, classes=classes, preprocessing=spec.preprocessing)


def _is_ours(metadata: CheckpointMetadata) -> bool:
    """Whether timm can build the network: a classifier of this package as its name and options say."""
    if metadata.model not in MODELS or not metadata.is_classifier:
        return False
    try:
        _spec(metadata)
    except SenetError:  # inserted attention is no option of the network
        return False
    return True


def _spec(metadata: CheckpointMetadata) -> Any:
    size = {"num_classes": len(metadata.classes), "in_channels": metadata.preprocessing.in_channels}
    return MODELS[metadata.model].changed(metadata.options | size)


def _in_rgb(
    tensors: Mapping[str, Tensor], metadata: CheckpointMetadata
) -> tuple[dict[str, Tensor], CheckpointMetadata]:
    """Return weights and metadata of the same function of an image, for RGB in 0..1."""
    images, tensors = metadata.preprocessing, dict(tensors)
    white, order = images.value_range, images.channel_order
    step = -1 if order == "BGR" else 1
    if order == "BGR":
        key = f"{first_convolution(MODELS[metadata.model])}.weight"
        tensors[key] = tensors[key].flip(1)
    mean, std = (tuple(value / white for value in values[::step]) for values in (images.mean, images.std))
    changed = replace(images, mean=mean, std=std, value_range=1.0, channel_order="RGB" if order == "BGR" else order)
    return tensors, replace(metadata, preprocessing=changed)


def _config(tensors: Mapping[str, Tensor], metadata: CheckpointMetadata) -> dict[str, Any]:
    """Return the configuration that timm reads, and check that it gives this network.

    Raises:
        SenetError: The weights are not the network's.
    """
    spec, images = _spec(metadata), metadata.preprocessing
    with torch.device("meta"):
        own = spec.build().state_dict()
    different = [
        key for key in sorted(own.keys() | tensors.keys())
        if key not in own or key not in tensors or own[key].shape != tensors[key].shape
    ]  # fmt: skip
    if different:
        raise SenetError(
            f"{metadata.model} can't be rebuilt from its name and options: {different[0]} differs ({len(different)} "
            "in total); push the network before changing its layers, or the checkpoint of `senet retrofit`"
        )
    skipped = ("num_classes", "in_channels", "preprocessing")
    options = {key: value for key, value in metadata.options.items() if key not in skipped}
    channels = {"in_chans": images.in_channels} if images.in_channels != 3 else {}
    return {
        "architecture": f"{PREFIX}{metadata.model}",
        "num_classes": len(metadata.classes),
        "num_features": spec.feature_info[-1].channels,
        "global_pool": "avg",
        "label_names": list(metadata.classes),
        "model_args": options | channels,
        "pretrained_cfg": timm_config(spec, images) | {"custom_load": False},
    }


def _without_paths(metadata: CheckpointMetadata) -> CheckpointMetadata:
    """Return the metadata with the last part of each data set's path only."""
    data, training = metadata.data, dict(metadata.training)
    if "data" in training:
        training["data"] = without_path(training["data"])
    if data is not None:
        data = replace(data, name=without_path(data.name))
    return replace(metadata, data=data, training=training)
