"""The page in a real browser: no errors and requests, the JSON's numbers, and narrow screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from report_helpers import CLASSES

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed (pip install playwright)")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page, offline; any error or request of the page fails the test."""
    contexts, problems = [], []

    def open_page(folder, width: int = 1280, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url))
        page.goto((folder / "index.html").as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_loads_without_errors_and_fits(opened, written, width, theme):
    page = opened(written.folder, width, theme)
    assert page.locator("h1").inner_text() == "a <net> on folder:x"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#notes li").all_inner_texts()[:2] == ["! <w>", "! 1 image can't be read and is left out"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (theme == "light")


def test_it_shows_the_jsons_numbers(opened, written):
    page, document = opened(written.folder), written.document
    assert page.locator(".tile b").all_inner_texts() == [
        f"{100 * document[key]:.2f}%" for key in ("top1", "balanced_accuracy", "macro_f1")
    ] + [f"{100 * document['calibration']['ece']:.2f}%", f"{document['loss']:.4f}"]
    assert page.locator("#class-table td[data-key=name]").all_inner_texts() == list(CLASSES)
    page.locator("#class-table button[data-key=recall]").click()
    assert page.locator("#class-table td[data-key=name]").first.inner_text() == "=green"
    cells = page.locator("table.matrix tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [[int(cell or 0) for cell in row[1:]] for row in cells] == document["confusion"]
    assert page.locator("#confusion-panels .panel").count() == 3
    assert page.locator("#mistake-list figure").count() == page.locator("#mistake-list img").count() == 5
    filled = [b for b in document["calibration"]["bins"] if b["images"]]
    assert page.locator("#calibration-panels circle").count() == len(filled)
    assert page.locator("#worst, #curves").evaluate_all("all => all.every(section => section.hidden)")
