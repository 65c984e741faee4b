"""The page in a real browser: no errors, its controls, the JSON's values, and captures of the whole page."""

from __future__ import annotations

import json
import re
import subprocess
import zlib
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from browsing import BROWSER, chromium, offline_pages
from PIL import Image

SCREENS = [
    pytest.param(width, height, theme, id=f"{width}-{theme}")
    for width, height in ((1280, 900), (390, 844))
    for theme in ("light", "dark")
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, folder):
    """Open the page, offline; any error of the page fails the test."""
    with offline_pages(browser) as open_page:
        yield partial(open_page, folder)


@pytest.fixture
def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize(("width", "height", "theme"), SCREENS)
def test_it_loads_without_errors_and_fits(opened, width, height, theme) -> None:
    page = opened(width, height, theme)
    assert page.locator("h1").inner_text() == "Gates of a <net>"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (theme == "light")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_the_table_is_the_json_and_sorts(opened, report) -> None:
    page = opened()

    def shown(key: str) -> list[str]:
        return page.locator(f"#table td[data-key={key}]").all_inner_texts()

    assert shown("name") == [b["name"] for b in report["blocks"]]
    assert shown("spread") == [f"{b['spread']:.3f}" for b in report["blocks"]]
    assert shown("specificity") == [f"{100 * b['specificity']:.1f}%" for b in report["blocks"]]
    assert shown("params") == [f"{b['params']:,}" for b in report["blocks"]]
    page.locator("#table button[data-key=spread]").click()
    falling = sorted((b["spread"] for b in report["blocks"]), reverse=True)
    assert shown("spread") == [f"{v:.3f}" for v in falling]
    page.locator("#table button[data-key=spread]").click()
    assert shown("spread") == [f"{v:.3f}" for v in falling[::-1]]


def values_over(page, figure: str, block: str, share: float) -> tuple[int, dict[str, str]]:
    """The tooltip at the pointer: the channel, and name to value."""
    svg = page.locator(f"#{figure} [data-block='{block}'] svg")
    svg.scroll_into_view_if_needed()
    svg = page.locator(f"#{figure} [data-block='{block}'] svg")  # the panel is drawn now
    box = svg.bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    head = page.locator("#tip b").inner_text()
    spans = page.locator("#tip div span").all_inner_texts()
    return int(head.rpartition(" ")[2]), dict(zip(spans[::2], spans[1::2], strict=True))


@pytest.mark.parametrize("share", [0.2, 0.55, 0.97])
def test_a_class_can_be_chosen_and_hovering_tells_the_jsons_values(opened, report, share) -> None:
    page, name = opened(), report["classes"][1]["name"]
    page.locator(f"#chosen button[data-class='{name}']").click()
    assert page.locator(f"#chosen button[data-class='{name}']").count() == 0
    block = report["blocks"][-2]["path"]
    assert name not in values_over(page, "figure6", block, share)[1]
    page.locator("#class-input").fill(name)
    page.locator("#class-input").press("Enter")
    page.locator(f"#chosen button[data-class='{name}']").wait_for()
    channel, told = values_over(page, "figure6", block, share)
    curves = report["curves"][block]
    at = curves["channels"].index(channel)
    expected = {"all images": curves["mean"][at]} | {
        report["classes"][k]["name"]: curves["class_mean"][row][at] for row, k in enumerate(curves["classes"])
    }
    assert told == {key: f"{value:.3f}" for key, value in expected.items()}

    page.locator("#class7").select_option(label=name)
    channel, told = values_over(page, "figure7", block, share)
    at = curves["channels"].index(channel)
    row = curves["classes"].index(1)
    assert told == {
        name: f"{curves['class_mean'][row][at]:.3f}",
        "standard deviation": f"{curves['class_spread'][row][at]:.3f}",
    }


def test_blocks_can_be_chosen(opened, report) -> None:
    page = opened()
    assert page.locator("#figure6 > .panel").count() == 5  # the ends of two stages, and the last stage's three
    page.locator("#preset").select_option("all")
    assert page.locator("#figure6 > .panel").count() == len(report["blocks"])
    page.locator("#table tbody tr").nth(1).click()
    assert page.locator("#figure6 > .panel").count() == len(report["blocks"]) - 1
    assert page.locator(f"#figure6 [data-block='{report['blocks'][1]['path']}']").count() == 0


def test_single_images_show_the_jsons_channels(opened, report) -> None:
    page, block = opened(), report["blocks"][0]["path"]
    page.locator("#thumbs button").nth(1).click()
    page.locator("#image-block").select_option(block)
    example = report["examples"][1]
    first = example["raised"][block][0]
    caption = page.locator("#image .row figcaption").first
    caption.get_by_text(f"{first['gate']:.3f}, mean {first['mean']:.3f}").wait_for()
    assert f"channel {first['channel']}" in caption.inner_text()
    assert example["label"] in page.locator("#image .whole figcaption").first.inner_text()


EMPTY = ".panel:not(:has(svg))"
NEVER_IDLE = "window.requestIdleCallback = () => 0"


def test_all_charts_are_drawn_without_scrolling(opened) -> None:
    page = opened()
    page.locator("#preset").select_option("all")
    page.wait_for_function(f"!document.querySelector({EMPTY!r})", timeout=10_000)


def test_charts_off_the_screen_are_drawn_later(opened) -> None:
    page = opened(script=NEVER_IDLE)
    page.locator("#preset").select_option("all")
    page.wait_for_timeout(200)
    assert page.locator(EMPTY).count() > 5


@pytest.mark.parametrize("how", ["pdf", "media"])
def test_charts_are_drawn_when_printed(opened, how) -> None:
    page = opened(script=NEVER_IDLE)
    page.locator("#preset").select_option("all")
    page.pdf() if how == "pdf" else page.emulate_media(media="print")
    page.wait_for_function(f"!document.querySelector({EMPTY!r})", timeout=10_000)


def test_printing_is_light_whatever_the_theme(opened) -> None:
    page = opened(theme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def panels(page) -> list[tuple[int, int, int, int]]:
    """Edges of each chart's lower half on the whole page, in pixels."""
    boxes = page.evaluate(
        "[...document.querySelectorAll('.panel')].map((p) => p.getBoundingClientRect()).map((r) => "
        "[r.left, r.top + scrollY + r.height / 2, r.right, r.bottom + scrollY])"
    )
    return [tuple(round(edge) for edge in box) for box in boxes]


def empty_panels(image: Image.Image, boxes: list[tuple[int, int, int, int]]) -> int:
    """Number of panels without any drawing."""
    return sum(len(set(image.convert("RGB").crop(box).getdata())) < 10 for box in boxes)


def test_a_capture_of_the_whole_page_has_all_charts(opened) -> None:
    page = opened(wait=False)  # as a script that captures pages: after the load event
    image = Image.open(BytesIO(page.screenshot(full_page=True)))
    assert page.locator(EMPTY).count() == 0
    boxes = panels(page)
    assert len(boxes) > 10
    assert empty_panels(image, boxes) == 0


def capture(folder: Path, out: Path, *options: str) -> bytes:
    command = [BROWSER, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={out.parent / 'profile'}"]
    page = (folder / "index.html").as_uri()
    subprocess.run([*command, *options, page], check=True, capture_output=True, timeout=120)
    return out.read_bytes()


def test_a_screenshot_of_a_tall_window_has_all_charts(opened, folder, tmp_path) -> None:
    out = tmp_path / "page.png"
    capture(folder, out, f"--screenshot={out}", "--window-size=1280,6000")
    assert empty_panels(Image.open(out), panels(opened(1280, 6000))) == 0


def test_a_printed_file_has_all_charts(opened, folder, tmp_path) -> None:
    out = tmp_path / "page.pdf"
    content = capture(folder, out, f"--print-to-pdf={out}")
    streams = re.findall(rb"FlateDecode.*?stream\r?\n(.*?)endstream", content, re.S)
    lines = sum(len(re.findall(rb" l\n", zlib.decompressobj().decompress(stream))) for stream in streams)
    paths = "[...document.querySelectorAll('svg path[data-series]')].map((p) => p.getAttribute('d'))"
    points = sum(path.count("L") for path in opened().evaluate(paths))
    assert lines > 0.9 * points
