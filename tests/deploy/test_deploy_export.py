"""An exported file computes what the network does, says what it is, and appears only if that is so."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from export_helpers import CLASSES, SMALL, SUFFIX, difference, images, loaded, network
from torch import nn

import senet
from senet.data import Data, MemorySource, eval_transform, sample_images
from senet.deploy import Check, export, load_exported
from senet.deploy.prepare_for_export import Form, prepare_for_export
from senet.deploy.tracing import traced
from senet.inference import predict
from senet.preprocessing import Preprocessing
from senet.zoo import LoadedModel

FAMILIES = {
    "basic": ("se_resnet18", {"depths": (1, 1)}),
    "grouped": ("se_resnext50_32x4d", {"depths": (1, 1)}),
    "cifar": ("se_cifar_resnet20", {"depth": 1}),
    "preact": ("se_cifar_preresnet20", {"depth": 1}),
    "mobile": ("se_mobilenet_v1_025", {}),
    "shuffle": ("se_shufflenet_v1_g3", {}),
    "dense": ("se_densenet121", {"depths": (1, 1)}),
}
TRIED = [("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino"), ("torch", "torch")]


@pytest.mark.parametrize(("kind", "runtime"), TRIED)
def test_the_same_function_at_any_size_and_batch(exported, kind, runtime):
    report, model = exported[kind], loaded().model
    assert report.drift < 1e-5
    made = load_exported(report.path, runtime=runtime)
    for shape in ((1, 3, 40, 56), (5, 3, 72, 33)):
        with torch.no_grad():
            assert difference(made.model(images(*shape)), model(images(*shape))) < 1e-5


def pairs() -> list[Any]:
    """One by default, since other tests export `basic` and `cifar`; all others take three minutes."""
    both = [(family, kind) for family in FAMILIES for kind in ("onnx", "openvino")]
    return [pytest.param(*pair, marks=[pytest.mark.slow] * (pair != ("preact", "onnx"))) for pair in both]


@pytest.mark.parametrize(("family", "kind"), pairs())
def test_families(family, kind, tmp_path):
    name, options = FAMILIES[family]
    model = network(name, **options)
    report = export(model, tmp_path / f"x{SUFFIX[kind]}", format=kind, check=Check(images=2))
    assert report.drift < 1e-5
    assert report.metadata.size is None
    x = images(3, 3, 64, 96)
    with torch.no_grad():
        assert difference(load_exported(report.path).model(x), model(x)) < 1e-5


@pytest.mark.parametrize("gate", ["sigmoid", "hard-sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("one_image", [False, True])
def test_the_exported_form_is_exact(gate, one_image, blocked):
    attention = senet.SE(gate=gate, init="default")
    model = network("se_resnet50", depths=(2, 1), attention=attention).double()
    x = images(1, 3, 96, 64).double()
    made = prepare_for_export(model, Form(one_image=one_image, blocked=blocked)).double()
    with torch.no_grad():
        # The form is float32; from its weights on it is float64.
        assert difference(made(x), model(x)) < 1e-6


@pytest.mark.parametrize("kind", SUFFIX)
def test_the_file_says_what_it_is(exported, kind):
    found = load_exported(exported[kind].path, runtime=exported[kind].runtime)
    assert found.classes == CLASSES
    assert found.preprocessing == SMALL
    assert found.metadata.model == "se_resnet50_v1_5"


def test_others_read_it_without_us(exported):
    session = onnxruntime.InferenceSession(exported["onnx"].path)
    texts = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(texts["classes"])) == CLASSES
    assert json.loads(texts["preprocessing"]) == json.loads(json.dumps(SMALL.to_dict()))
    assert [d if isinstance(d, int) else "any" for d in session.get_inputs()[0].shape] == ["any", 3, "any", "any"]
    model = openvino.Core().read_model(exported["openvino"].path)
    assert tuple(json.loads(model.get_rt_info(["senet", "classes"]).astype(str))) == CLASSES
    assert model.input("images").partial_shape.to_string() == "[?,3,?,?]"
    assert model.output("logits").partial_shape.to_string() == f"[?,{len(CLASSES)}]"


def documented() -> list[str]:
    """The programs on the page."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "deployment.md").read_text(encoding="utf-8")
    return [part.split("```")[0] for part in page.split("```python\n")[1:]]


def test_the_documented_programs_work_without_senet(exported, tmp_path):
    prepared, *programs = documented()
    (tmp_path / "prepared.py").write_text(prepared)
    for report in exported.values():
        for file in Path(report.path).parent.glob("net.*"):
            (tmp_path / f"flowers{file.suffix}").write_bytes(file.read_bytes())
    sample_images(1)[0].save(tmp_path / "photo.png")
    assert len(programs) == 3
    said = set()
    for program in programs:
        code = "import sys; sys.modules['senet'] = None\n" + program.replace("photo.jpg", "photo.png")
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert run.returncode == 0, run.stderr
        said.add(run.stdout.strip())
    found = next(predict(load_exported(exported["onnx"].path), [str(tmp_path / "photo.png")]))
    assert said == {found.top[0][0]}


@pytest.mark.parametrize("settings", [
    SMALL,
    Preprocessing(),
    Preprocessing(size=(48, 40), mean=(9.0, 8.0, 7.0), std=(1.0, 2.0, 1.0), channel_order="BGR", value_range=255.0,
                  interpolation="bicubic"),
    Preprocessing(size=(16, 16), crop_fraction=1.0, mean=(0.3,), std=(0.3,), channel_order="L"),
], ids=lambda p: p.channel_order)  # fmt: skip
def test_the_documented_preprocessing_is_ours(settings):
    scope: dict[str, Any] = {}
    exec(documented()[0], scope)
    wide, tall = (
        picture.crop((0, 0, *size)) for picture, size in zip(sample_images(2), ((320, 201), (97, 320)), strict=True)
    )
    for picture in (wide, tall):
        found = scope["prepared"](picture, json.loads(json.dumps(settings.to_dict())))
        expected = eval_transform(settings)(picture).numpy()[None]
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-4


def test_openvino_makes_one_pass_of_scale_sum_and_relu(exported):
    """And nothing else but convolutions and means is left of the two blocks: no change of layout, no reshaping."""
    model = openvino.Core().read_model(exported["openvino"].path)
    model.reshape([2, 3, 64, 64])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ordered_ops()]
    passes = [kind for kind in kinds if kind in ("Subgraph", "Eltwise")]
    assert len(passes) == 2
    assert kinds.count("Convolution") == 1 + 2 * 3 + 2 + 2 * 2  # stem, branches, projections, gates
    assert not [kind for kind in kinds if kind in ("Transpose", "Multiply", "Add", "Relu")]


@pytest.mark.slow
def test_a_fixed_size_is_averaged_by_pooling(tmp_path):
    report = export(loaded(), tmp_path / "x.xml", format="openvino", size=(64, 64), check=Check(images=2))
    kinds = [op.get_type_name() for op in openvino.Core().read_model(report.path).get_ordered_ops()]
    assert kinds.count("AvgPool") == 2
    made = load_exported(report.path)
    with torch.no_grad():
        assert difference(made.model(images(3, 3, 64, 64)), loaded().model(images(3, 3, 64, 64))) < 1e-5


@pytest.mark.slow
def test_one_image_of_a_fixed_size_needs_no_pass(tmp_path):
    report = export(loaded(), tmp_path / "x.xml", format="openvino", size=(160, 160), batch=1, check=Check(images=2))
    compiled = openvino.Core().compile_model(report.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ops = {op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ordered_ops()}
    fused = [op.get_rt_info()["originalLayersNames"].astype(str) for op in ops.values()]
    maps = [op for op in ops.values() if op.get_rt_info()["layerType"].astype(str) in ("Subgraph", "Eltwise")]
    assert all(list(op.output(0).shape)[2:] == [1, 1] for op in maps), fused  # of weights, not of maps
    made = load_exported(report.path)
    with torch.no_grad():
        x = images(3, 3, 160, 160)
        assert difference(made.model(x), loaded().model(x)) < 1e-5  # one after the other


def test_onnxruntime_needs_no_change_of_layout(tmp_path):
    """At a fixed size nothing but products is left between the convolutions, which take sum and ReLU."""
    model = loaded(depths=(2, 1))
    report = export(model, tmp_path / "x.onnx", size=(64, 64), batch=2, check=Check(images=2))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(report.path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    if "ReorderOutput" not in kinds:
        pytest.skip("ONNX Runtime has no blocked layout for this CPU")
    assert kinds.count("ReorderOutput") == 1  # before the head
    assert kinds.count("Mul") == kinds.count("Upsample") == 3
    assert not {"ReorderInput", "Add", "Relu", "Sigmoid"} & set(kinds)


def test_norms_are_folded(exported):
    kinds = {node.op_type for node in onnx.load(exported["onnx"].path).graph.node}
    assert "BatchNormalization" not in kinds
    assert {"Conv", "Mul", "Sigmoid"} <= kinds


def test_a_fixed_size(tmp_path):
    made = export(loaded(), tmp_path / "x.onnx", size=(48, 64), check=Check(images=2))
    assert made.metadata.preprocessing.size == (48, 64)
    again = load_exported(tmp_path / "x.onnx")
    assert again.model(images(4, 3, 48, 64)).shape == (4, 5)
    with pytest.raises(senet.SenetError, match="48x64 pixels only, got 64x48"):
        again.model(images(1, 3, 64, 48))
    with pytest.raises(senet.SenetError, match=r"\(N, 3, H, W\)"):
        again.model(images(1, 1, 48, 64))


class Flat(nn.Module):
    """Takes one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 224 * 224, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


class ByValue(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Rare(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(super().forward(x))


def test_a_network_that_takes_one_size_only(tmp_path):
    report = export(Flat(), tmp_path / "x.onnx", check=Check(images=2))
    assert report.metadata.size == (224, 224)
    assert "take images of 224x224 pixels only" in str(report)
    assert load_exported(tmp_path / "x.onnx").model(images(3, 3, 224, 224)).shape == (3, 4)


def test_any_size_also_from_one_that_leaves_a_single_pixel(tmp_path):
    """Where a map is 1x1 as the gate is, the file's shapes would take the two for the same."""
    tiny = loaded("se_cifar_resnet20", replace(SMALL, size=(4, 4)), depth=1)
    report = export(tiny, tmp_path / "x.onnx", check=Check(images=1))
    assert report.metadata.size is None
    x = images(3, 3, 96, 64)
    with torch.no_grad():
        assert difference(load_exported(tmp_path / "x.onnx").model(x), tiny.model(x)) < 1e-5


@pytest.mark.slow
def test_what_tracing_says_of_sizes_is_kept_from_the_user(caplog):
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    logger.addHandler(caplog.handler)  # it hands on to none above it
    try:
        _, any_size = traced(network("bn_inception"), 3, (64, 96), any_size=True, batch=None)
    finally:
        logger.removeHandler(caplog.handler)
    assert any_size
    assert "Failed to reduce inequalities" not in caplog.text


@pytest.mark.parametrize(("made", "kind", "says"), [
    (ByValue, "onnx", "can't be exported"),
    (Rare, "onnx", "bessel_j0"),
    (Rare, "openvino", "bessel_j0"),
])  # fmt: skip
def test_what_can_not_be_exported(tmp_path, made, kind, says):
    with pytest.raises(senet.SenetError, match=says) as caught:
        export(made(), tmp_path / f"x{SUFFIX[kind]}", format=kind, check=Check(images=1))
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "torch"])
def test_a_file_that_differs_is_not_kept(kind, tmp_path, monkeypatch):
    target = tmp_path / f"x{SUFFIX[kind]}"
    target.write_text("an older file")

    def another(model: nn.Module, *_: object) -> nn.Module:
        made = prepare_for_export(model)
        next(m for m in made.modules() if isinstance(m, nn.Conv2d)).bias.data.add_(0.5)  # one gate
        return made

    monkeypatch.setattr("senet.deploy.exporting.prepare_for_export", another)
    with pytest.raises(senet.SenetError, match=r"differs from the network.*not kept"):
        export(loaded(), target, format=kind, check=Check(images=2))
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "an older file"


def test_numbers_that_are_none_are_refused(tmp_path):
    network = loaded()
    network.model.head.fc.bias.data[0] = float("nan")
    with pytest.raises(senet.SenetError, match="differs from the network"):
        export(network, tmp_path / "x.pt2", format="torch", check=Check(images=1))


@pytest.mark.parametrize(("options", "says"), [
    ({"format": "onxx"}, "'onnx'"),
    ({"precision": "int4"}, "'int8'"),
    ({"format": "openvino"}, r"\.xml"),
    ({"precision": "bf16"}, "use openvino or torch"),
    ({"precision": "int8"}, "--data"),
    ({"batch": 0}, "at least 1"),
])  # fmt: skip
def test_what_is_refused_at_once(tmp_path, options, says):
    with pytest.raises(senet.SenetError, match=says):
        export(loaded(), tmp_path / "x.onnx", **options)
    with pytest.raises(senet.SenetError, match="no folder"):
        export(loaded(), tmp_path / "nowhere" / "x.onnx")
    with pytest.raises(senet.SenetError, match="takes a network"):
        export("x", tmp_path / "x.onnx")  # type: ignore[arg-type]
    with pytest.raises(senet.SenetError, match="returns no logits"):
        export(network("se_resnet18", depths=(1,)).stem, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", SUFFIX)
def test_damaged_files(exported, kind, tmp_path):
    source = Path(exported[kind].path)
    content = source.read_bytes()
    broken = tmp_path / source.name
    broken.write_bytes(content[: len(content) // 2])
    if kind == "openvino":
        (tmp_path / "net.bin").write_bytes(source.with_suffix(".bin").read_bytes())
    with pytest.raises(senet.SenetError, match=source.name):
        load_exported(broken, runtime="torch" if kind == "torch" else None)


def test_weights_of_another_file(exported, tmp_path):
    source = Path(exported["openvino"].path)
    (tmp_path / "net.xml").write_bytes(source.read_bytes())
    with pytest.raises(senet.SenetError, match=r"net\.bin: no such file; it belongs to net\.xml"):
        load_exported(tmp_path / "net.xml")
    weights = bytearray(source.with_suffix(".bin").read_bytes())
    weights[1000] ^= 1
    (tmp_path / "net.bin").write_bytes(weights)
    with pytest.raises(senet.SenetError, match=r"net\.bin: its hash differs"):
        load_exported(tmp_path / "net.xml")


def test_files_of_other_programs(tmp_path):
    torch.onnx.export(nn.Linear(2, 2), (torch.zeros(1, 2),), tmp_path / "x.onnx", verbose=False, dynamo=False)
    with pytest.raises(senet.SenetError, match="not a file of `senet export`"):
        load_exported(tmp_path / "x.onnx")
    with pytest.raises(senet.SenetError, match="no such file"):
        load_exported(tmp_path / "y.xml")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "openvino", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(exported, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    kind = "openvino" if package == "openvino" else "onnx"
    with pytest.raises(senet.SenetError, match=rf"needs the package {package}: pip install 'senet\[export\]'"):
        export(loaded(), tmp_path / f"x{SUFFIX[kind]}", format=kind, check=Check(images=1))
    assert not list(tmp_path.iterdir())


def test_runtimes_that_do_not_fit(exported):
    with pytest.raises(senet.SenetError, match=r"openvino doesn't read \.pt2; use --runtime torch"):
        load_exported(exported["torch"].path, runtime="openvino")
    with pytest.raises(senet.SenetError, match="use --runtime torch if you trust it"):
        load_exported(exported["torch"].path)
    with pytest.raises(senet.SenetError, match="'onnxruntime'"):
        load_exported(exported["onnx"].path, runtime="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (64, 64)])
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_squeezes_the_map_that_is_stored(kind, size, tmp_path):
    """Behind a bottleneck's second convolution; a float copy of that map would be written for the squeeze alone."""
    pytest.importorskip("nncf")
    network, pictures = loaded(), [(picture,) for picture in sample_images(8)]
    source = MemorySource(pictures, np.zeros(len(pictures)), name="photographs")
    check = Check(images=2, data=Data("photographs", CLASSES, source, source), max_drop=100.0)
    path = tmp_path / f"x{SUFFIX[kind]}"
    fixed, free = {"onnx": "AveragePool", "openvino": "AvgPool"}, {"onnx": "ReduceMean", "openvino": "ReduceMean"}
    squeeze = fixed if size else free
    assert 1e-4 < export(network, path, format=kind, precision="int8", size=size, check=check).drift < 0.1
    if kind == "onnx":
        graph = onnx.load(path).graph
        makers = {output: node.op_type for node in graph.node for output in node.output}
        read = [makers[node.input[0]] for node in graph.node if node.op_type == squeeze["onnx"]]
        assert read.count("DequantizeLinear") >= 2
    else:
        ops = openvino.Core().read_model(path).get_ordered_ops()
        means = [op for op in ops if op.get_type_name() == squeeze["openvino"]]
        read = [op.input_value(0).get_node().get_type_name() for op in means]
        assert read.count("FakeQuantize") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_takes_a_head_on_pooled_features(kind, tmp_path):
    """Its hard swish multiplies pooled features too, and is no gate. MobileNetV3 and LCNet have such a head."""
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 64, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(64, 5))
    se = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.Hardswish(), senet.SqueezeExcite(16, 4), nn.Conv2d(16, 24, 1), nn.ReLU()
    )
    source = MemorySource([(picture,) for picture in sample_images(8)], np.zeros(8), name="photographs")
    check = Check(images=2, data=Data("photographs", CLASSES, source, source), max_drop=100.0)
    path = tmp_path / f"x{SUFFIX[kind]}"
    export(nn.Sequential(se, head), path, format=kind, precision="int8", size=(64, 64), check=check)
    if kind == "onnx":
        weights = onnx.load(path).graph.initializer
        types = {tuple(weight.dims): onnx.TensorProto.DataType.Name(weight.data_type) for weight in weights}
    else:
        operations = openvino.Core().read_model(path).get_ordered_ops()
        outputs = [operation.output(0) for operation in operations if operation.get_type_name() == "Constant"]
        names = {"i8": "INT8", "f32": "FLOAT"}
        types = {tuple(output.shape): names.get(output.element_type.get_type_name()) for output in outputs}
    assert types[64, 24, 1, 1] == types[24, 16, 1, 1] == "INT8"
    assert types[16, 4, 1, 1] == "FLOAT"


@pytest.mark.slow
def test_bf16(tmp_path):
    plain = export(loaded(), tmp_path / "a.xml", format="openvino", check=Check(images=2))
    for kind, suffix in (("openvino", ".xml"), ("torch", ".pt2")):
        report = export(loaded(), tmp_path / f"x{suffix}", format=kind, precision="bf16", check=Check(images=2))
        assert 1e-4 < report.drift < 0.05
        assert report.bytes < 0.7 * plain.bytes  # a .pt2 also has the source line of each operation
        made = load_exported(report.path, runtime=report.runtime)
        assert made.metadata.training["precision"] == "bf16"
    with pytest.raises(senet.SenetError, match="differs from the network"):
        export(loaded(), tmp_path / "y.xml", format="openvino", precision="bf16", check=Check(images=2, tolerance=1e-4))


@pytest.mark.slow
def test_a_network_on_its_own_is_described(tmp_path):
    model = network("se_cifar_resnet20", depth=1)
    export(model, tmp_path / "x.pt2", format="torch", check=Check(images=2))
    found = load_exported(tmp_path / "x.pt2", runtime="torch")
    assert found.classes == ("0", "1", "2", "3", "4")
    assert found.preprocessing == model.spec.preprocessing
    assert isinstance(found, LoadedModel)


@pytest.mark.slow
def test_the_given_network_stays(tmp_path):
    network = replace(loaded(), model=loaded().model.train().to(memory_format=torch.channels_last))
    kept = {key: value.clone() for key, value in network.model.state_dict().items()}
    export(network, tmp_path / "x.pt2", format="torch", check=Check(images=1))
    assert network.model.training
    assert all(torch.equal(value, kept[key]) for key, value in network.model.state_dict().items())
