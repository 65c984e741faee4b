"""`senet export`, and the verbs that take what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a minute


@pytest.fixture(scope="module")
def files(trained, digit_folder, tmp_path_factory) -> dict[str, Path]:
    """The trained network in each format, and in int8."""
    from senet.cli import main

    folder = tmp_path_factory.mktemp("files")
    found = {"onnx": folder / "net.onnx", "openvino": folder / "net.xml", "torch": folder / "net.pt2"}
    data = ["--data", f"folder:{digit_folder}"]
    for kind, path in found.items():
        assert main(["export", "--checkpoint", str(trained), "--format", kind, "--out", str(path), *data]) == 0
    return found


def test_export_says_what_it_did(senet, trained, tmp_path):
    code, out, err = senet("export", "--checkpoint", trained, "--format", "torch", "--out", tmp_path / "x.pt2")
    assert code == 0, err
    first, *lines = out.splitlines()
    assert first == f"{tmp_path / 'x.pt2'}: torch, float32, any size, any batch"
    assert [line.split()[0] for line in lines] == ["size", "drift", "latency"]
    code, out, _ = senet("export", "--checkpoint", trained, "--format", "torch", "--out", tmp_path / "x.pt2", "--json")
    assert json.loads(out)["drift"] < 1e-5


def test_predict_takes_a_file_as_a_checkpoint(senet, files, trained, digit_folder, tmp_path):
    pictures = digit_folder / "test" / "3"
    _, out, _ = senet("predict", pictures, "--checkpoint", trained, "--json")
    expected = json.loads(out)
    for path, runtime in ((files["onnx"], "onnxruntime"), (files["onnx"], "openvino"), (files["openvino"], "openvino")):
        code, out, err = senet("predict", pictures, "--checkpoint", path, "--runtime", runtime, "--json")
        assert code == 0, err
        for mine, theirs in zip(json.loads(out), expected, strict=True):
            assert mine["path"] == theirs["path"]
            assert mine["top"][0]["label"] == theirs["top"][0]["label"]
            assert abs(mine["top"][0]["probability"] - theirs["top"][0]["probability"]) < 1e-4


def test_evaluate_takes_a_file_as_a_checkpoint(senet, files, trained, digit_folder):
    results = []
    for checkpoint in (trained, *files.values()):
        more = ["--runtime", "torch"] if checkpoint == files["torch"] else []
        code, out, err = senet("evaluate", "--checkpoint", checkpoint, "--data", f"folder:{digit_folder}",
                               "--batch-size", 30, "--json", *more)  # fmt: skip
        assert code == 0, err
        results.append(json.loads(out))
    assert len({result["top1"] for result in results}) == 1
    assert len({json.dumps(result["confusion"]) for result in results}) == 1


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_int8(senet, refused, trained, digit_folder, tmp_path, kind, suffix):
    pytest.importorskip("nncf")
    target = tmp_path / f"x{suffix}"
    command = ["export", "--checkpoint", trained, "--format", kind, "--precision", "int8", "--out", target,
               "--data", f"folder:{digit_folder}", "--calibration", 40]  # fmt: skip
    message = refused(*command, "--max-drop", -101)
    assert "points of accuracy" in message
    assert not list(tmp_path.iterdir())
    code, out, err = senet(*command, "--max-drop", 10, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["metadata"]["precision"] == "int8"
    assert report["evaluated"] == 100
    assert report["drift"] > 1e-4
    assert report["accuracy"]["after"] >= report["accuracy"]["before"] - 0.1
    assert sorted(p.name for p in tmp_path.iterdir()) == (["x.onnx"] if kind == "onnx" else ["x.bin", "x.xml"])
    gates_are_float = {"onnx": onnx_gates_are_float, "openvino": openvino_gates_are_float}
    assert gates_are_float[kind](target)


def onnx_gates_are_float(path: Path) -> bool:
    """What a sigmoid is made from, back to the mean, isn't quantized; other convolutions are."""
    import onnx

    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    sources = [makers[node.input[0]].op_type for node in graph.node if node.op_type == "Sigmoid"]
    quantized = [n for n in graph.node if n.op_type == "Conv" and makers[n.input[0]].op_type == "DequantizeLinear"]
    return set(sources) == {"Conv"} and len(quantized) >= 19


def openvino_gates_are_float(path: Path) -> bool:
    import openvino

    ops = openvino.Core().read_model(path).get_ordered_ops()
    pooled = [
        op for op in ops if op.get_type_name() == "Convolution" and list(op.get_output_partial_shape(0))[2:] == [1, 1]
    ]
    kinds = [[value.get_node().get_type_name() for value in op.input_values()] for op in pooled]
    quantized = [op for op in ops if op.get_type_name() == "FakeQuantize"]
    return len(pooled) == 18 and not any("FakeQuantize" in kind for kind in kinds) and len(quantized) >= 19


def test_bench(senet, files, tmp_path):
    picture = tmp_path / "bench.png"
    code, out, err = senet(
        "bench", "se_cifar_resnet20", "cifar_resnet20", "--size", 16, "--batch-sizes", "1,3", "--threads", "1",
        "--seconds", 0.05, "--runtime", "eager,optimized", "--out", picture, "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [(r["network"], r["runtime"], r["batch"]) for r in rows] == [
        (name, runtime, batch)
        for batch in (1, 3)
        for name in ("se_cifar_resnet20", "cifar_resnet20")
        for runtime in ("eager", "optimized")
    ]
    assert all(r["ms"] > 0 and r["rounds"] >= 3 for r in rows)
    assert rows[0]["ratio"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, err = senet("bench", files["onnx"], files["openvino"], "--seconds", 0.05, "--threads", "1")
    assert code == 0, err
    assert "onnxruntime" in out
    assert "time / first" in out


def test_what_bench_refuses(refused, files, tmp_path):
    assert "'se_resnet50'" in refused("bench", "se_resnet5")
    assert "'eager'" in refused("bench", "se_resnet18", "--runtime", "eagr")
    assert "runs in eager or optimized" in refused("bench", "se_resnet18", "--runtime", "openvino")
    assert "positive" in refused("bench", "se_resnet18", "--seconds", 0)
    assert ".png" in refused("bench", "se_resnet18", "--out", tmp_path / "x.jpg")
    assert "no such file" in refused("bench", tmp_path / "none.onnx")
    assert "if you trust it" in refused("bench", files["torch"])
    assert "takes images (N, 1, H, W)" not in refused("bench", files["onnx"], "--batch-sizes", "0")


def test_what_export_refuses(refused, trained, files, digit_folder, tmp_path):
    common = ["export", "--checkpoint", trained, "--out", tmp_path / "x.onnx", "--format"]
    assert "'onnx'" in refused(*common, "onxx")
    assert ".xml" in refused(*common, "openvino")
    assert "--data" in refused(*common, "onnx", "--precision", "int8")
    assert "--limit chooses images of --data" in refused(*common, "onnx", "--limit", 3)
    assert "differs from the network" in refused(*common, "onnx", "--tolerance", 0)
    assert "a checkpoint is a .safetensors file" in refused(
        "export", "--checkpoint", files["onnx"], "--format", "onnx", "--out", tmp_path / "y.onnx"
    )
    assert not list(tmp_path.iterdir())


def test_options_that_have_no_effect_on_a_file(refused, files, trained, digit_folder):
    picture = next((digit_folder / "test" / "1").iterdir())
    assert "--precision bf16" in refused("predict", picture, "--checkpoint", files["onnx"], "--precision", "bf16")
    assert "--runtime openvino" in refused("predict", picture, "--checkpoint", trained, "--runtime", "openvino")
    assert "holds its network" in refused("predict", picture, "--checkpoint", files["onnx"], "--model", "a:b")
    assert "'openvino'" in refused("predict", picture, "--checkpoint", files["onnx"], "--runtime", "openvin")


def test_a_file_of_another_network_or_a_truncated_one(refused, files, digit_folder, tmp_path):
    data = ["--data", f"folder:{digit_folder}"]
    short = tmp_path / "short.onnx"
    short.write_bytes(files["onnx"].read_bytes()[:5000])
    assert "short.onnx" in refused("evaluate", "--checkpoint", short, *data)
    (tmp_path / "other.xml").write_bytes(files["openvino"].read_bytes())
    assert "other.bin: no such file" in refused("evaluate", "--checkpoint", tmp_path / "other.xml", *data)
    (tmp_path / "other.bin").write_bytes(b"0" * 1000)
    assert "its hash differs" in refused("evaluate", "--checkpoint", tmp_path / "other.xml", *data)
