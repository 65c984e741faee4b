"""The page of `senet serve` in a real browser."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
import torch
from browsing import chromium
from PIL import Image

import senet
from senet.preprocessing import CIFAR
from senet.weights import CheckpointMetadata, write_checkpoint

pytest.importorskip("gradio", reason="gradio isn't installed (pip install 'senet[serve]')")
pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path):
    torch.manual_seed(0)
    network = senet.create_model("se_cifar_resnet20", num_classes=2)
    metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
    write_checkpoint(tmp_path / "best.safetensors", network.state_dict(), metadata)
    command = [sys.executable, "-m", "senet", "serve", str(tmp_path / "best.safetensors"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_images_are_explained_without_any_outside_request(url, tmp_path, width, height):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(good)
    bad.write_text("no image")
    outside, problems = [], []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else outside.append(r.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        page.locator("input[type=file]").wait_for(state="attached")
        page.set_input_files("input[type=file]", good)
        page.wait_for_selector("#gates svg")
        assert page.locator("#gates svg").count() == 9
        assert {"cat", "dog"} <= set(re.findall("cat|dog", page.locator("#classes").inner_text()))
        assert page.locator("#activation img").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_input_files("input[type=file]", bad)
        page.wait_for_selector("#trouble textarea")
        assert page.locator("#trouble textarea").input_value().startswith("bad.png: ")
        assert not page.locator("#gates svg").count()
        page.screenshot(path=tmp_path / "bad-page.png")
    assert (outside, problems) == ([], [])
