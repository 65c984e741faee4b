"""Files as other programs leave them: loaded with the right numbers, or refused with what to do."""

from __future__ import annotations

import argparse
import copy
import datetime
import enum
import os
import pathlib
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import senet
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights import LoadReport, load_weights, read_tensors

timm = pytest.importorskip("timm")
State = dict[str, Tensor]

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def theirs(seed: int) -> nn.Module:
    """timm's SE-ResNet of one block a stage, with random gates, norms and statistics."""
    from timm.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=5, block_args={"attn_layer": "se"}).eval()
    random = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1, generator=random)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.2, 0.2, generator=random)
        else:
            tensor.fill_(seed + 1)
    return model


def ours(**options: Any) -> nn.Module:
    return senet.create_model("se_resnet50_v1_5", depths=(1, 1, 1, 1), **{"num_classes": 5} | options).eval()


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    """The current one and the averaged one, which answer otherwise."""
    raw, averaged = theirs(0), theirs(1)
    assert not torch.allclose(raw(X), averaged(X), atol=1e-2)
    return raw, averaged


def before(prefix: str, state: State) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + key, tensor) for key, tensor in state.items())


def counted(prefix: str, state: State, n: int = 3) -> State:
    return {**before(prefix, state), "n_averaged": torch.tensor(n)}


def settings() -> argparse.Namespace:
    return argparse.Namespace(
        model="seresnet50", lr=0.1, data_dir=pathlib.Path("/data"), best=np.float64(0.5), epoch=np.int64(3),
        dtype=np.float32, device=torch.device("cpu"), precision=torch.float16, size=torch.Size([3, 224, 224]),
        betas=np.zeros(2), groups=defaultdict(list, a=[1]), last=deque([1], 3), names=frozenset("ab"),
        began=datetime.datetime(2026, 1, 1), more=types.SimpleNamespace(a=1), torch=torch.__version__,
    )  # fmt: skip


def lightning(state: State, **more: Any) -> dict[str, Any]:
    from lightning.fabric.utilities.data import AttributeDict

    return {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.6.6", "state_dict": state, "loops": {},
        "callbacks": {"ModelCheckpoint{'monitor': 'val.loss'}": {"best_model_score": torch.tensor(torch.inf)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}], "lr_schedulers": [],
        "hparams_name": "kwargs", "hyper_parameters": AttributeDict(lr=0.1, loss=nn.CrossEntropyLoss()),
    } | more  # fmt: skip


def mmpretrain(state: State) -> State:
    found = {}
    for key, tensor in state.items():
        key = re.sub(r"\.se\.fc(\d)\.", r".se_layer.conv\1.conv.", key)
        found[("head." if key.startswith("fc.") else "backbone.") + key] = tensor
    return found


def profiled(state: State) -> State:
    one = torch.zeros(1, dtype=torch.float64)
    return {**state, "total_ops": one, "total_params": one, "layer1.0.total_ops": one, "layer1.0.total_params": one}


def parameters(state: State) -> State:
    return {key: t for key, t in state.items() if "running" not in key and "num_batches" not in key}


def split(state: State) -> State:
    return {("head" + key[2:] if key.startswith("fc.") else f"backbone.{key}"): t for key, t in state.items()}


def mmcv_copies(current: State) -> State:
    return {f"ema_backbone_{key.replace('.', '_')}": t for key, t in current.items()}


MMENGINE = {"meta": {"mmengine_version": "0.10"}, "message_hub": {"log_scalars": {}}}
WRITTEN: dict[str, tuple[str, Callable[[State, State], Any]]] = {
    "plain": ("raw", lambda r, _: r),
    "timm's train.py": ("ema", lambda r, a: {"epoch": 3, "arch": "x", "state_dict": r, "version": 2, "args": settings(),
                                             "optimizer": {}, "state_dict_ema": a, "metric": np.float64(81.2)}),
    "torchvision's train.py": ("ema", lambda r, a: {"model": r, "optimizer": {}, "lr_scheduler": {}, "args": settings(),
                                                    "model_ema": counted("module.", a)}),
    "torchvision's train.py, in parallel": ("ema", lambda r, a: {
        "model": before("module.", r), "epoch": 3, "args": settings(), "model_ema": counted("module.module.", a)}),
    "torchvision's, no average yet": ("raw", lambda r, a: {"model": r, "model_ema": counted("module.", a, n=0)}),
    "Lightning, model": ("raw", lambda r, _: lightning(before("model.", r))),
    "Lightning, net": ("raw", lambda r, _: lightning(before("net.", r))),
    "Lightning, backbone": ("raw", lambda r, _: lightning(before("backbone.", r))),
    "Lightning, backbone and head": ("raw", lambda r, _: lightning(split(r))),
    "Lightning, a loss beside": ("raw", lambda r, _: lightning({**before("model.", r), "loss.w": torch.ones(5)})),
    "Lightning, WeightAveraging": ("ema", lambda r, a: lightning(
        before("model.", a), current_model_state=before("model.", r), averaging_state={"n_averaged": torch.tensor(4)})),
    "Lightning, no average yet": ("raw", lambda r, a: lightning(
        before("model.", a), current_model_state=before("model.", r), averaging_state={"n_averaged": torch.tensor(0)})),
    "Lightning, StochasticWeightAveraging": ("ema", lambda r, a: lightning(before("model.", r), callbacks={
        "StochasticWeightAveraging": {"n_averaged": 2, "average_model_state": before("model.", a)}})),
    "Lightning, an average inside": ("ema", lambda r, a: lightning(
        {**before("net.", r), **before("ema.", counted("module.", a))})),
    "mmpretrain": ("raw", lambda r, _: {"meta": {"epoch": 100}, "state_dict": mmpretrain(r)}),
    "mmpretrain, EMAHook": ("ema", lambda r, a: MMENGINE | {
        "state_dict": mmpretrain(a), "ema_state_dict": {**before("module.", mmpretrain(r)), "steps": torch.tensor(3)}}),
    "mmcv's EMAHook": ("ema", lambda r, a: {"state_dict": {**before("backbone.", a), **mmcv_copies(r)}}),
    "DDP": ("raw", lambda r, _: before("module.", r)),
    "compile": ("raw", lambda r, _: before("_orig_mod.", r)),
    "DDP of compile": ("raw", lambda r, _: before("module._orig_mod.", r)),
    "compile of DDP": ("raw", lambda r, _: before("_orig_mod.module.", r)),
    "a compiled stage": ("raw", lambda r, _: {k.replace("layer1.", "layer1._orig_mod."): t for k, t in r.items()}),
    "DeepSpeed": ("raw", lambda r, _: {"module": r, "ds_version": "0.10"}),
    "AveragedModel": ("ema", lambda _, a: counted("module.", a)),
    "ema": ("ema", lambda r, a: {"network": r, "ema": a}),
    "model_ema, state dicts in it": ("ema", lambda r, a: {"weights": r, "model_ema": {"ema_model": a}}),
    "ema_pytorch": ("ema", lambda r, a: {"ema": {**before("online_model.", r), **before("ema_model.", a),
                                                 "initted": torch.tensor(True), "step": torch.tensor(1)}}),
    "an average of parameters alone": ("mixed", lambda r, a: {"params": r, "ema": {"shadow": parameters(a)}}),
    "a part of an average": ("raw", lambda r, a: {"net": r, "ema": {"fc.weight": a["fc.weight"]}}),
    "thop": ("raw", lambda r, _: profiled(r)),
    "auxiliary heads": ("raw", lambda r, _: {**r, "AuxLogits.fc.weight": torch.ones(2), "aux1.fc.weight": torch.ones(2),
                                             "head_aux.weight": torch.ones(2), "aux_classifier.0.bias": torch.ones(2)}),
    "half precision": ("raw", lambda r, _: {k: t.half() if t.is_floating_point() else t for k, t in r.items()}),
    "in another wrapper, deep": ("raw", lambda r, _: {"trainer": {"nets": before("a.encoder.module.b.", r)}}),
    "under two names": ("raw", lambda r, _: before("net.", r) | before("model.", r)),
}  # fmt: skip


def took(report: LoadReport, model: nn.Module, networks: tuple[nn.Module, nn.Module]) -> str:
    """Which of the two networks it answers as."""
    with torch.no_grad():
        same = [torch.allclose(model(X), other(X), atol=1e-4) for other in networks]
    assert report.averaged == (not same[0])
    return {(True, False): "raw", (False, True): "ema", (False, False): "mixed"}[same[0], same[1]]


@pytest.mark.parametrize("form", WRITTEN)
def test_each_trainers_file_loads(form: str, tmp_path: Path, networks: tuple[nn.Module, nn.Module]) -> None:
    expected, write = WRITTEN[form]
    raw, averaged = (network.state_dict() for network in networks)
    content = write(raw, averaged)
    torch.save(content, tmp_path / "x.ckpt")
    model = ours()
    report = load_weights(model, tmp_path / "x.ckpt")
    networks = tuple(n.half().float() for n in copy.deepcopy(networks)) if form == "half precision" else networks
    assert took(report, model, networks) == expected
    if expected != "raw":
        assert "averaged weights" in report.notes[0]
    if form in ("plain", "timm's train.py", "Lightning, WeightAveraging"):
        assert load_weights(ours(), content) == report, "a state dict in memory is as good as a file"


QUICK = ("timm's train.py", "Lightning, WeightAveraging", "mmpretrain, EMAHook", "mmcv's EMAHook", "AveragedModel")
"""Averages beside the weights, in their place, and alone."""


@pytest.mark.parametrize(
    "form",
    [
        form if form in QUICK else pytest.param(form, marks=pytest.mark.slow)
        for form, (expected, _) in WRITTEN.items()
        if expected == "ema"
    ],
)
def test_raw_weights_on_request(form: str, networks: tuple[nn.Module, nn.Module]) -> None:
    content = WRITTEN[form][1](*(network.state_dict() for network in networks))
    model = ours()
    if form in ("AveragedModel", "mmcv's EMAHook"):
        with pytest.raises(CheckpointError, match=r"its weights are averaged .* leave --weights raw"):
            load_weights(model, content, weights="raw")
        return
    report = load_weights(model, content, weights="raw")
    assert took(report, model, networks) == "raw"
    assert "averaged ones are in" in report.notes[0]


def test_an_average_has_the_buffers_it_lacks_from_the_current_weights(networks: tuple[nn.Module, nn.Module]) -> None:
    raw, averaged = (network.state_dict() for network in networks)
    model, expected = ours(), theirs(2)
    load_weights(model, {"net": raw, "ema": parameters(averaged)}, weights="ema")
    expected.load_state_dict(raw | parameters(averaged))
    torch.testing.assert_close(model(X), expected(X))


def test_where_there_is_no_average(networks: tuple[nn.Module, nn.Module]) -> None:
    raw, averaged = (network.state_dict() for network in networks)
    for content, said in (
        (raw, "no averaged weights of this network in it"),
        ({"net": raw, "ema": {k: t for k, t in averaged.items() if "layer1" not in k}}, "ema are incomplete"),
        ({"net": raw, "ema": counted("module.", averaged, n=0)}, "n_averaged is 0"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_weights(ours(), content, weights="ema")
    with pytest.raises(UnknownNameError, match="did you mean 'ema'"):
        load_weights(ours(), raw, weights="emas")


def test_torchs_own_average_is_found(networks: tuple[nn.Module, nn.Module]) -> None:
    average = AveragedModel(networks[0], multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for network in networks:
        average.update_parameters(network)
    model = ours()
    assert load_weights(model, {"model": networks[1].state_dict(), "swa_model": average.state_dict()}).averaged
    torch.testing.assert_close(model(X), average(X))


def test_lightnings_own_file_with_its_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning as pl
    from lightning.pytorch.callbacks import EMAWeightAveraging

    class Module(pl.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    monkeypatch.chdir(tmp_path)
    module = Module(theirs(0))
    trainer = pl.Trainer(max_steps=3, callbacks=[EMAWeightAveraging(decay=0.5)], logger=False, accelerator="cpu",
                         enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=True)  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(6, 3, 64, 64), batch_size=2))
    [file] = tmp_path.rglob("*.ckpt")
    content = torch.load(file, weights_only=False)
    assert "current_model_state" in content
    for which, part in (("auto", "state_dict"), ("raw", "current_model_state")):
        model, peer = ours(), theirs(0)
        report = load_weights(model, file, weights=which)
        assert report.averaged == (which == "auto")
        peer.load_state_dict({key.removeprefix("net."): t for key, t in content[part].items()})
        torch.testing.assert_close(model(X), peer(X))


def test_what_is_left_out_is_reported(networks: tuple[nn.Module, nn.Module]) -> None:
    raw = networks[0].state_dict()
    report = load_weights(ours(), profiled(raw) | {"aux_head.weight": torch.ones(1)})
    expected = {"total_ops", "total_params", "layer1.0.total_ops", "layer1.0.total_params", "aux_head.weight"}
    assert set(report.left_out) == expected
    assert "left out, 5 in all: aux_head.weight" in report.notes[0]
    beside = load_weights(ours(), {"state_dict": {**before("model.", raw), "criterion.weight": torch.ones(5)}})
    assert beside.left_out == ("criterion.weight",)
    assert beside.prefix == "state_dict.model."


def test_an_own_auxiliary_head_is_no_leftover() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aux_head, self.total_ops = nn.Linear(2, 2), nn.Parameter(torch.ones(1))

    source, target = Own(), Own()
    assert load_weights(target, {"model": before("net.", source.state_dict())}).left_out == ()
    assert torch.equal(target.aux_head.weight, source.aux_head.weight)


def test_several_networks_are_a_question(networks: tuple[nn.Module, nn.Module]) -> None:
    raw, averaged = (network.state_dict() for network in networks)
    content = {"state_dict": {**before("student.", raw), **before("module.teacher.", averaged)}}
    with pytest.raises(CheckpointError, match=r"several networks in it fit: .*student', .*teacher'; .* --prefix"):
        load_weights(ours(), content)
    for prefix, expected in (("student", 0), ("teacher.", 1), ("state_dict.teacher", 1), ("module.teacher", 1)):
        model = ours()
        load_weights(model, content, prefix=prefix)
        torch.testing.assert_close(model(X), networks[expected](X), atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match="has the prefix 'pupil'; there are 'state_dict"):
        load_weights(ours(), content, prefix="pupil")
    with pytest.raises(CheckpointError, match="several networks in it fit: 'last', 'best'"):
        load_weights(ours(), {"last": raw, "best": averaged})


def test_names_are_ignored_on_request(networks: tuple[nn.Module, nn.Module]) -> None:
    raw = networks[0].state_dict()
    content = raw | {"projector.0.weight": torch.ones(2), "projector.1.bias": torch.ones(2), "epoch": 3}
    with pytest.raises(CheckpointError, match="epoch is a int, not a tensor; --ignore epoch"):
        load_weights(ours(), content)
    with pytest.raises(CheckpointError, match=r"projector.0.weight has no counterpart .* --ignore 'projector\.\*'"):
        load_weights(ours(), content, ignore=["epoch"])
    report = load_weights(ours(), content, ignore=["epoch", "projector.*"])
    assert set(report.left_out) == {"epoch", "projector.0.weight", "projector.1.bias"}
    with pytest.raises(CheckpointError, match=r"matches the ignore pattern 'projektor\.\*'"):
        load_weights(ours(), content, ignore=["projektor.*"])
    with pytest.raises(SenetError, match="must be a list of patterns"):
        load_weights(ours(), content, ignore="epoch")  # type: ignore[arg-type]


def test_a_file_without_a_classifier(networks: tuple[nn.Module, nn.Module]) -> None:
    body = {k: t for k, t in networks[0].state_dict().items() if not k.startswith("fc.")}
    with pytest.raises(CheckpointError, match="has no classifier; transfer=True"):
        load_weights(ours(), before("encoder.", body))
    with pytest.warns(UserWarning, match="has no classifier"):
        report = load_weights(ours(), before("encoder.", body), transfer=True)
    assert report.newly_initialized == ("head.fc.weight", "head.fc.bias")
    two = {"head.0.weight": torch.ones(5, 2048), "head.2.weight": torch.ones(5, 2048)}
    with pytest.raises(CheckpointError, match="has no classifier"):
        load_weights(ours(), {**before("encoder.", body), **two})


def test_a_whole_state_dict_of_another_kind_is_told(networks: tuple[nn.Module, nn.Module]) -> None:
    with pytest.raises(CheckpointError, match=r"is \(5, 2048\) in the file"):
        load_weights(ours(num_classes=7), {"state_dict": before("net.", networks[0].state_dict())})
    with pytest.raises(CheckpointError, match="its weight names"):
        load_weights(senet.create_model("mobilenet_v1", device="meta"), before("net.", {"a.b.c": torch.ones(1)}))


class Colour(enum.Enum):
    RED = 1


class Calling:
    """Unpickling it calls something."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


HOSTILE = {
    "os.system": lambda target: Calling(os.system, f"touch {target}"),
    "exec": lambda target: Calling(exec, f"open({str(target)!r}, 'w')"),
    "eval": lambda target: Calling(eval, f"open({str(target)!r}, 'w')"),
    "a method": lambda target: Calling(Path.touch, target),
    "in settings": lambda target: argparse.Namespace(a=[Calling(os.system, f"touch {target}")]),
    "in an array's type": lambda target: Calling(np.dtype, Calling(os.system, f"touch {target}")),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_runs(name: str, legacy: bool, tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "x.pth"
    content = {"state_dict": {"fc.weight": torch.ones(1)}, "args": HOSTILE[name](target)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"could run code|not a complete PyTorch file"):
        read_tensors(path)
    assert not target.exists()


def test_what_a_placeholder_gives_cannot_be_called(tmp_path: Path) -> None:
    """`getattr` stands in the logs of MMEngine's files; what it gives here calls nothing."""
    target, path = tmp_path / "created", tmp_path / "x.pth"
    command = f"touch {target}".encode()
    attack = (b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\nobject\nX\x08\x00\x00\x00__init__tR"
              b"(X" + len(command).to_bytes(4, "little") + command + b"tR.")  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", attack), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"x/{name}", content)
    with pytest.raises(CheckpointError, match="could run code"):
        read_tensors(path)
    assert not target.exists()


def test_settings_are_read_as_placeholders_only(tmp_path: Path) -> None:
    """A name on the list runs nothing either: not the class, nor its library's code."""
    calls = []

    class Noisy(argparse.Namespace):
        def __setstate__(self, state: Any) -> None:
            calls.append(state)

    torch.save({"a": torch.ones(1), "args": settings()}, tmp_path / "x.pth")
    listed = torch.serialization.get_safe_globals()
    original = argparse.Namespace.__dict__.get("__setstate__")
    argparse.Namespace.__setstate__ = Noisy.__setstate__  # type: ignore[attr-defined]
    try:
        with pytest.raises(CheckpointError, match="not a tensor"):
            load_weights(nn.Linear(1, 1), {"weight": torch.ones(1, 1), "args": settings()})
        assert list(read_tensors(tmp_path / "x.pth")) == ["a"]
    finally:
        del argparse.Namespace.__setstate__  # type: ignore[attr-defined]
    assert original is None
    assert not calls
    now = torch.serialization.get_safe_globals()
    assert sorted(map(repr, now)) == sorted(map(repr, listed)), "the list that torch keeps is as it was"


def test_settings_of_libraries_that_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: tuple[nn.Module, nn.Module]
) -> None:
    """omegaconf's, as Hydra's users have them: objects that hold each other and types."""
    names = {
        "omegaconf.dictconfig": ["DictConfig"],
        "omegaconf.base": ["ContainerMetadata"],
        "omegaconf.nodes": ["AnyNode"],
    }
    kinds = {}
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for module, classes in names.items():
        made = types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, made)
        for name in classes:
            kinds[name] = type(name, (), {"__module__": module})
            setattr(made, name, kinds[name])
    config, meta, node = (kinds[name]() for name in ("DictConfig", "ContainerMetadata", "AnyNode"))
    meta.__dict__ |= {"ref_type": Any, "object_type": dict, "element_type": int | None, "cache": defaultdict(dict)}
    node.__dict__ |= {"_val": 0.1, "_parent": config}
    config.__dict__ |= {"_metadata": meta, "_content": {"lr": node}}
    torch.save({"state_dict": networks[0].state_dict(), "hyper_parameters": config}, tmp_path / "x.ckpt")
    for module in names:
        monkeypatch.delitem(sys.modules, module)
    assert load_weights(ours(), tmp_path / "x.ckpt").layout == "timm"
    assert not names.keys() & sys.modules.keys()


def _program(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a whole network": (lambda path: torch.save(theirs(0), path), r"ResNet, .*use torch\.save\(model\.state_dict\(\)"),
    "a network in a wrapper": (lambda path: torch.save({"ema": theirs(0)}, path), r"model\.state_dict\(\)"),
    "a function": (lambda path: torch.save({"f": os.path.join}, path), r"contains posixpath\.join, .*state_dict"),
    "a class of the user's": (lambda path: torch.save({"c": Colour.RED}, path), r"Colour, .*model\.state_dict\(\)"),
    "TorchScript": (_program, r"torch\.jit\.load\(FILE\)\.state_dict\(\)"),
    "a list": (lambda path: torch.save([torch.ones(1)], path), r"contains a list, .*model\.state_dict\(\)"),
    "a tensor": (lambda path: torch.save(torch.ones(1), path), r"contains a Tensor, .*model\.state_dict\(\)"),
    "no tensors": (lambda path: torch.save({"args": settings()}, path), "no weights in it"),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": torch.ones(1)})), "could run code|not a comp"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_refusal_names_the_remedy(name: str, tmp_path: Path) -> None:
    write, said = REFUSED[name]
    write(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=said) as caught:
        load_weights(ours(), tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["epoch=3-step=100.ckpt", "model_best.pth.tar", "x.bin", "x.weights", "checkpoint"])
def test_files_of_any_name(name: str, tmp_path: Path, networks: tuple[nn.Module, nn.Module]) -> None:
    torch.save({"state_dict": networks[0].state_dict()}, tmp_path / name)
    assert load_weights(ours(), tmp_path / name).layout == "timm"
    save_file({k: t.contiguous() for k, t in networks[0].state_dict().items()}, tmp_path / "hub.st")
    assert load_weights(ours(), tmp_path / "hub.st").layout == "timm"
