"""Distillation: the published loss, a teacher that is no part of the student, exact resume, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from equality import assert_equal
from safetensors.torch import load_file
from torch import nn

from senet.cli import main
from senet.cli.config import read_run
from senet.data import Mixing, Normalise, open_data
from senet.errors import CheckpointError, SenetError
from senet.preprocessing import CIFAR, IMAGENET, IMAGENET_CAFFE, Preprocessing
from senet.tasks import task_named
from senet.tasks.distillation import Distillation, Renormalise, distillation_loss
from senet.training import DataOptions, Job, ModelInitialization, Recipe, RunOptions, Teacher
from senet.training.module import TrainingModule
from senet.weights import CheckpointMetadata, read_checkpoint, write_checkpoint
from senet.zoo import create_model

OPTIONS = {"depth": 1, "widths": [8, 16]}
DIGITS = Preprocessing(size=(8, 8), crop_fraction=1.0, mean=(0.3,), std=(0.4,), channel_order="L")


def write_teacher(path: Path, classes, *, seed: int = 0, images: Preprocessing = DIGITS, **more) -> Path:
    torch.manual_seed(seed)
    network = create_model("cifar_resnet20", in_channels=images.in_channels, num_classes=len(classes), **OPTIONS)
    for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
        tensor.data.uniform_(0.2, 1.0) if tensor.ndim == 1 else tensor.data.normal_(0, 0.3)
    metadata = CheckpointMetadata(
        model="cifar_resnet20", options=OPTIONS, classes=tuple(classes), preprocessing=images, **more
    )
    write_checkpoint(path, network.state_dict(), metadata)
    return path


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory) -> Path:
    """A teacher with the digits in reverse order, other statistics and a larger image."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return write_teacher(path, open_data("digits").classes[::-1], images=replace(DIGITS, size=(12, 12)))


def job(teacher: Path | None, **changes) -> Job:
    own = ModelInitialization.from_checkpoint(str(teacher)) if teacher else None
    return Job(
        source=DataOptions(data="digits", limit=96),
        network=ModelInitialization(model="cifar_resnet20", options=OPTIONS, size=(8, 8)),
        recipe=Recipe(epochs=2, batch_size=32, lr=0.05, mixup=0.2, ema_decay=0.5),
        run=RunOptions(workers=0, save_every="2"),
        teacher=own and Teacher(network=own, **changes),
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_hintons(temperature):
    torch.manual_seed(0)
    student, teacher = (torch.randn(6, 5, dtype=torch.float64) for _ in range(2))
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    expected = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(float(expected), abs=1e-12)


def test_a_temperature_of_0_takes_the_likeliest_class():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    expected = -student.log_softmax(1)[range(6), teacher.argmax(1)].mean()
    assert float(distillation_loss(student, teacher, 0.0)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("there", [IMAGENET, IMAGENET_CAFFE, CIFAR])
@pytest.mark.parametrize("here", [CIFAR, IMAGENET_CAFFE])
def test_pixels_are_normalised_as_the_teacher_wants(here, there):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    alike = replace(there, size=here.size)
    found, expected = Renormalise(here, alike, name="x")(Normalise(here)(pixels)), Normalise(alike)(pixels)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    if here == there:
        assert torch.equal(found, expected)


def test_mixed_images_stay_mixed():
    pixels, labels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    there, mixing = replace(IMAGENET, size=CIFAR.size), Mixing(3, mixup=0.4)
    mixed = mixing(Normalise(CIFAR)(pixels), labels, (0, 0))[0]
    expected = mixing(Normalise(there)(pixels), labels, (0, 0))[0]
    assert torch.allclose(Renormalise(CIFAR, there, name="x")(mixed), expected, atol=1e-5)


def test_a_step_combines_both_losses_on_the_same_images(teacher_file):
    """The classes are mapped by name, the images resized, and the teacher stays as it is."""
    data = open_data("digits")
    images = replace(data.default_preprocessing, size=(8, 8))
    init = ModelInitialization.from_checkpoint(str(teacher_file))
    distillation, teacher = Teacher(network=init, alpha=0.3, temperature=2.0).build(data.classes, images)
    torch.manual_seed(1)
    student = create_model("cifar_resnet20", in_channels=1, num_classes=10, **OPTIONS).eval()
    recipe = Recipe(mixup=0.2)
    objective = task_named("classification").objective(data.classes, recipe, preprocessing=images)
    pixels, labels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), torch.arange(4)

    class Batch:
        key = (0, 0)

    Batch.images, Batch.labels = pixels, labels
    plain = objective.training_step(student, Batch)["loss"]
    objective.distillation = distillation
    loss = objective.training_step(student, Batch)["loss"]
    mixed, _ = Mixing(10, mixup=0.2)(Normalise(images)(pixels), labels, (0, 0))
    raw = mixed * images.std[0] + images.mean[0]
    resized = torch.nn.functional.interpolate((raw - 0.3) / 0.4, size=(12, 12), mode="bilinear", antialias=True)
    network = create_model("cifar_resnet20", in_channels=1, num_classes=10, **OPTIONS)
    network.load_state_dict(load_file(teacher_file))
    theirs = network.eval()(resized).flip(1)
    expected = 0.7 * plain + 0.3 * distillation_loss(student(mixed), theirs, 2.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in distillation.teacher.parameters())
    assert not any(module is distillation.teacher for module in objective.modules())
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(),
                                                 distillation.teacher.state_dict().values(), strict=True))  # fmt: skip
    assert teacher.digest != ""


def test_a_resumed_distillation_is_the_same_to_the_bit(teacher_file, tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    job(teacher_file).start(whole)
    original = TrainingModule.training_step

    def killed(self, images, number):
        if (self.current_epoch, number) == (1, 2):
            raise RuntimeError("killed")
        return original(self, images, number)

    monkeypatch.setattr(TrainingModule, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        job(teacher_file).start(folder)
    monkeypatch.setattr(TrainingModule, "training_step", original)
    Job.read(folder).resume(folder)
    assert_equal(folder, whole)
    tensors, metadata = read_checkpoint(whole / "last.safetensors")
    student = create_model("cifar_resnet20", in_channels=1, num_classes=10, **OPTIONS).state_dict()
    assert tensors.keys() == student.keys()
    assert metadata.training["teacher"]["model"] == "cifar_resnet20"
    saved = torch.load(next((whole / "states").glob("00002-*.ckpt")), weights_only=True)
    copies = [f"{copy}{key}" for copy in ("model.", "average.module.") for key in student]
    assert saved["state_dict"].keys() == {*copies, "average.n_averaged"}
    assert sum(len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]) == sum(
        1 for _ in create_model("cifar_resnet20", in_channels=1, num_classes=10, **OPTIONS).parameters()
    )
    assert saved["teacher"]["sha256"] == Job.read(whole).teacher.digest
    assert read_run(whole / "run.json") == Job.read(whole)
    assert "teacher" not in job(None).to_dict()


def test_another_teacher_in_its_place_is_refused(tmp_path, monkeypatch):
    file, classes = tmp_path / "teacher.safetensors", open_data("digits").classes
    write_teacher(file, classes)

    def killed(self, images, number):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            job(file).start(tmp_path / "run")
    write_teacher(file, classes, seed=1)
    with pytest.raises(CheckpointError, match=r"the teacher cifar_resnet20 in .* has changed since the run started"):
        Job.read(tmp_path / "run").resume(tmp_path / "run")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--teacher", "few.safetensors"], "has 3 classes, and the data has 10; use a teacher of the same classes"),
    (["--teacher", "named.safetensors"], "doesn't know '0'; its classes are a, b, c, d, e, ...; use a teacher"),
    (["--teacher", "masks.safetensors"], "is for segmentation, not for classification"),
    (["--teacher", "own.safetensors"], "is of your own network mine:net; only networks by name can teach"),
    (["--teacher", "colour.safetensors"], r"takes 3 channels (RGB), the student 1 (L); use a teacher of the student's"),
    (["--teacher", "weights.pth"], "doesn't name its network and classes; convert it first"),
    (["--teacher", "cifar_resnet20"], "no pretrained weights of cifar_resnet20 are published"),
    (["--teacher", "resnet5O"], "resnet50"),
    (["--teacher-temperature", "2"], "--teacher-temperature has no effect without --teacher"),
    (["--teacher", "named.safetensors", "--teacher-alpha", "0"], "teacher_alpha=0.0 must be over 0 and at most 1"),
])  # fmt: skip
def test_what_cannot_teach_is_refused_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ten = open_data("digits").classes
    write_teacher(Path("few.safetensors"), ("0", "1", "2"))
    write_teacher(Path("named.safetensors"), "abcdefghij")
    write_teacher(Path("colour.safetensors"), ten, images=CIFAR)
    write_teacher(Path("masks.safetensors"), ten, task="segmentation", head={"kind": "unet"})
    Path("weights.pth").write_bytes(b"")
    metadata = replace(read_checkpoint(Path("named.safetensors"))[1], model="mine:net")
    write_checkpoint(Path("own.safetensors"), {"weight": torch.zeros(1)}, metadata)
    code = main(["train", "se_cifar_resnet20", "--data", "digits", "--size", "8", "--out", "run", *arguments])
    error = capsys.readouterr().err.rpartition("senet train: ")[2]
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 2
    assert not Path("run").exists()


def test_only_classifiers_learn_from_teachers(teacher_file):
    whole = job(teacher_file)
    with pytest.raises(SenetError, match="--teacher is for classification; this network is for detection"):
        replace(whole, network=replace(whole.network, task="detection"))


def test_numbered_classes_match_in_their_order(tmp_path):
    file = write_teacher(tmp_path / "numbers.safetensors", ("0", "1", "2"))
    teacher = Teacher(network=ModelInitialization.from_checkpoint(str(file)))
    assert teacher._order(("c", "a", "b")).tolist() == [0, 1, 2]
    assert teacher._order(("2", "0", "1")).tolist() == [2, 0, 1]


def test_the_teacher_has_no_gradient_and_stays_in_evaluation_mode():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 2)).train()
    images = replace(CIFAR, size=(2, 2))
    distillation = Distillation(network, order=torch.tensor([1, 0]), images=images, student_images=images, alpha=0.5,
                                temperature=1.0, name="mine")  # fmt: skip
    before, x = network[2].running_mean.clone(), torch.randn(4, 3, 2, 2, requires_grad=True)
    first = distillation.logits(x)
    assert torch.equal(first, distillation.logits(x))
    assert torch.equal(network[2].running_mean, before)
    assert not first.requires_grad
