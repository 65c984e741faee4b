"""Exported detectors and segmenters: the same outputs as the network's, through the same commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dense_helpers import CLASSES, IMAGES, TINY, dense, pairs_off, pictures, settle, without_boxes

from senet.deploy import Check, export, load_exported
from senet.deploy.detector_size import resized_size
from senet.errors import SenetError
from senet.zoo import LoadedModel

FEW = Check(images=1)
SIZES = ((48, 64), (97, 131))

HEADS = {
    "faster_rcnn": ("se_resnet18", IMAGES),
    "retinanet": ("se_resnet18", IMAGES),
    "fcos": ("se_resnet18", replace(IMAGES, size=(160, 224))),  # its group norms need more than one position
    "torchvision:ssdlite320_mobilenet_v3_large": ("torchvision:ssdlite320_mobilenet_v3_large", IMAGES),
}


HEAD_SETTINGS = {head: {"kind": head, "channels": 32} for head in ("retinanet", "unet")}


def detector(head: str) -> LoadedModel:
    model, images = HEADS[head]
    return dense("detection", head, model, images, **({"hidden": 64} if head == "faster_rcnn" else {}))


def check_detector(network: LoadedModel, path: str, runtime: str, *sizes: tuple[int, int]) -> None:
    made = load_exported(path, runtime=runtime)
    for image in pictures(*sizes):
        with torch.no_grad():
            [expected], [found] = network.model([image]), made.model([image])
        pixels, score = pairs_off(expected, found)
        assert pixels < 1e-3
        assert score < 1e-4
        assert found["scores"].diff().le(0).all()


@pytest.fixture(scope="module")
def faster(tmp_path_factory) -> tuple[LoadedModel, str]:
    """A detector and its ONNX file."""
    network = detector("faster_rcnn")
    path = tmp_path_factory.mktemp("detector") / "net.onnx"
    export(network, path, check=FEW, ir_version=8)
    return network, str(path)


def test_a_detector_finds_the_same_boxes_in_images_of_any_size(faster):
    network, path = faster
    check_detector(network, path, "onnxruntime", *SIZES)
    check_detector(network, path, "openvino", *SIZES)


def test_a_detectors_file_names_its_task_classes_threshold_and_numbers(faster):
    _, path = faster
    made = onnx.load(path)
    texts = {entry.key: json.loads(entry.value) for entry in made.metadata_props}
    assert (texts["senet_format"], texts["task"], texts["score_threshold"]) == (2, "detection", 0.05)
    assert texts["classes"] == [*CLASSES]
    assert [output.name for output in made.graph.output] == ["boxes", "scores", "labels"]
    assert made.ir_version == 8
    loaded = load_exported(path)
    assert loaded.metadata.task == "detection"
    assert loaded.metadata.training["category_ids"] == [7, 3, 11]


def test_the_gates_of_a_detector_are_in_the_file(faster):
    network, path = faster
    changed = detector("faster_rcnn")
    for name, parameter in changed.model.named_parameters():
        if ".fc2." in name:
            torch.nn.init.zeros_(parameter)
    [image] = pictures((97, 131))
    with torch.no_grad():
        [expected], [other] = network.model([image]), changed.model([image])
    [found] = load_exported(path).model([image])
    assert pairs_off(expected, found)[0] < 1e-3
    same = len(expected["boxes"]) == len(other["boxes"])
    assert not same or pairs_off(expected, other)[0] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_each_head_gives_its_boxes_in_both_formats(head, tmp_path):
    network = detector(head)
    sizes = ((301, 199), (160, 224)) if head == "fcos" else SIZES
    report = export(network, tmp_path / "net.onnx", check=FEW)
    assert report.differences["unmatched_boxes"] == 0
    assert report.differences["boxes"] > 0
    for runtime in ("onnxruntime", "openvino"):
        check_detector(network, report.path, runtime, *sizes)
    report = export(network, tmp_path / "net.xml", format="openvino", check=FEW)
    check_detector(network, report.path, "openvino", *sizes)


@pytest.mark.slow
@pytest.mark.parametrize("head", [*HEADS][:3])
def test_an_image_without_detections_gives_none(head, tmp_path):
    """The graph is traced with detections."""
    network = detector(head)
    part = getattr(network.model, "roi_heads", network.model)
    [image] = pictures((160, 224))
    with torch.no_grad():
        scores = network.model([image])[0]["scores"]
    part.score_thresh = float(scores.max()) - 1e-6
    path = tmp_path / "net.onnx"
    from senet.deploy.detector import traced_detector
    from senet.deploy.export_metadata import ExportMetadata
    from senet.deploy.prepare_for_export import prepare_for_export

    metadata = ExportMetadata(model="x", classes=CLASSES, preprocessing=network.preprocessing, task="detection",
                              batch=1)  # fmt: skip
    made = traced_detector(prepare_for_export(network.model), metadata)
    onnx.helper.set_model_props(made, metadata.to_texts())
    onnx.save(made, path)
    empty = 0
    for runtime in ("onnxruntime", "openvino"):
        file = load_exported(path, runtime=runtime)
        for one in (image * 0.2, image * 0.0, 1 - image):
            with torch.no_grad():
                [expected], [found] = network.model([one]), file.model([one])
            assert found["boxes"].shape == expected["boxes"].shape
            empty += len(found["boxes"]) == 0
    assert empty > 0


@pytest.mark.slow
def test_a_detector_that_finds_nothing_at_all(tmp_path):
    for head in [*HEADS][:3]:
        report = export(without_boxes(detector(head)), tmp_path / "net.onnx", check=FEW)
        [found] = load_exported(report.path).model(pictures((160, 224)))
        assert found["boxes"].shape == (0, 4)
        assert report.differences["boxes"] == 0


@pytest.mark.slow
def test_fp16_of_a_detector_keeps_coordinates_in_float32(tmp_path):
    network = detector("retinanet")
    settle(network.model.backbone)
    network.model.eval()
    plain = export(network, tmp_path / "net.onnx", check=FEW)
    for format, name in (("onnx", "half.onnx"), ("openvino", "half.xml")):
        report = export(network, tmp_path / name, format=format, precision="fp16", check=FEW)
        assert report.differences["box_pixels"] < 1
        assert report.differences["boxes"] > 0
        [found] = load_exported(report.path).model(pictures((97, 131)))
        inside = found["boxes"][(found["boxes"] > 0) & (found["boxes"] < 97)]
        assert len(inside) > 100
        assert (inside == inside.half()).float().mean() < 0.1
        if format == "onnx":
            assert report.bytes < 0.7 * plain.bytes


def test_sizes_are_torchvisions_own():
    sizes = [(97, 131), (49, 60), (480, 640), (37, 501), (11, 1400), *((n, 2 * n + 1) for n in range(1, 300, 7))]
    for shorter, longer in ((800, 1333), (64, 96), (480, 640)):
        for height, width in sizes:
            scale = min(shorter / min(height, width), longer / max(height, width))
            expected = [int(np.floor(float(edge) * scale)) for edge in (height, width)]
            assert resized_size(torch.tensor([height, width]), shorter, longer).tolist() == expected
    assert resized_size(torch.tensor([97, 97]), 800, 1333).tolist() == [799, 799]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "torch", "path": "net.pt2"}, "detectors have no torch file"),
        ({"precision": "int8"}, "int8 is for classifiers"),
        ({"format": "openvino", "path": "net.xml", "precision": "bf16"}, "bf16 is for classifiers and segmenters"),
        ({"batch": 2}, "one image at a time"),
        ({"opset": 13}, "opset=13 must be 18 to"),
        ({"opset": 21, "ir_version": 8}, "ir_version=8 must be 10 to"),
        ({"ir_version": 99}, "ir_version=99 must be"),
        ({"format": "openvino", "path": "net.xml", "opset": 18}, "opset=18 is for onnx"),
    ],
)
def test_impossible_options_are_refused_by_name(options, says, tmp_path):
    network = dense("segmentation", "unet") if "opset" in says or "ir_version" in says else detector("retinanet")
    path = tmp_path / options.pop("path", "net.onnx") if "path" in options else tmp_path / "net.onnx"
    with pytest.raises(SenetError, match=says):
        export(network, path, **options)
    assert not any(tmp_path.iterdir())


SEGMENTERS = ("unet", "deeplabv3plus", "fpn")


def check_segmenter(network: LoadedModel, path: Path | str, runtime: str, limit: float = 1e-4) -> None:
    made = load_exported(path, runtime=runtime)
    for size in ((64, 96), (96, 64)):
        images = torch.stack(pictures(size, size)) * 4 - 2
        with torch.no_grad():
            expected = network.model(images)
        expected = expected["out"] if isinstance(expected, dict) else expected
        found = made.model(images)
        assert found.shape == (2, len(CLASSES), *size)
        assert (found - expected).abs().max() <= limit * expected.abs().max()


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> tuple[LoadedModel, Path]:
    network = dense("segmentation", "unet")
    path = tmp_path_factory.mktemp("segmenter") / "net.onnx"
    report = export(network, path, check=FEW, opset=18)
    assert report.differences["changed_pixels"] < 1e-3
    return network, path


def test_a_segmenter_gives_the_same_logits_at_any_size(segmenter):
    network, path = segmenter
    check_segmenter(network, path, "onnxruntime")
    check_segmenter(network, path, "openvino")


def test_the_opset_is_the_one_asked_for_and_the_ir_its_oldest(segmenter):
    made = onnx.load(segmenter[1])
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 18)]
    assert made.ir_version == 8
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("head", SEGMENTERS)
def test_each_segmenter_in_each_format(head, tmp_path):
    network = dense("segmentation", head)
    for format, name in (("onnx", "net.onnx"), ("openvino", "net.xml"), ("torch", "net.pt2")):
        for precision, limit in (("32", 1e-4), ("fp16", 0.02)):
            report = export(network, tmp_path / name, format=format, precision=precision, check=FEW)
            check_segmenter(network, report.path, report.runtime, limit)


@pytest.mark.slow
def test_torchvisions_segmenter_gives_its_first_output(tmp_path):
    network = dense("segmentation", "", "torchvision:lraspp_mobilenet_v3_large")
    report = export(network, tmp_path / "net.onnx", check=FEW)
    check_segmenter(network, report.path, "onnxruntime", 1e-3)


@pytest.mark.slow
def test_fp16_of_a_classifier_halves_the_file(tmp_path):
    from export_helpers import difference, images
    from export_helpers import loaded as classifier

    network = classifier()
    for format, name in (("onnx", "net.onnx"), ("openvino", "net.xml"), ("torch", "net.pt2")):
        plain = export(network, tmp_path / name, format=format, check=FEW)
        report = export(network, tmp_path / name, format=format, precision="fp16", check=FEW)
        assert report.bytes < 0.65 * plain.bytes
        assert 1e-6 < report.drift < 0.01
        made = load_exported(report.path, runtime=report.runtime)
        with torch.no_grad():
            expected = network.model(images(2, 3, 40, 56))
        assert made.model(images(2, 3, 40, 56)).dtype == torch.float32
        assert difference(made.model(images(2, 3, 40, 56)), expected) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("task", "head"), [("detection", "retinanet"), ("segmentation", "unet")])
def test_evaluate_and_predict_take_a_file_like_its_checkpoint(task, head, tmp_path, capsys):
    from tasks.task_data import write_masks, write_voc

    from senet.cli import main
    from senet.weights import write_checkpoint

    network = dense(task, head)
    classes = ("background", "blue", "red") if task == "segmentation" else ("blue", "red", "green")
    metadata = replace(network.metadata, classes=classes, head=HEAD_SETTINGS[head], options=TINY, training={})
    checkpoint = tmp_path / "net.safetensors"
    write_checkpoint(checkpoint, network.model.state_dict(), metadata)
    folder = (write_masks if task == "segmentation" else write_voc)(tmp_path / "data")
    names = ["--class-names", ",".join(classes)] if task == "detection" else []
    data = ["--data", f"{'masks' if task == 'segmentation' else 'voc'}:{folder}", *names]
    file = tmp_path / "net.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--format", "onnx", "--out", str(file), *data]) == 0
    capsys.readouterr()
    found = []
    for name in (checkpoint, file):
        assert main(["evaluate", "--checkpoint", str(name), *data, "--split", "test", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"])
        image = str(next((folder / ("images" if task == "segmentation" else "JPEGImages")).iterdir()))
        assert main(["predict", image, "--checkpoint", str(name), "--out", str(tmp_path / name.suffix[1:])]) == 0
        capsys.readouterr()
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    written = [sorted(path.name for path in (tmp_path / s).iterdir()) for s in ("safetensors", "onnx")]
    assert written[0] == written[1]
