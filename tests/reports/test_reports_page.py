"""The page in a real browser: no errors and requests, the JSON's numbers, and narrow screens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import chromium, offline_pages
from report_helpers import CLASSES


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Open a page, offline; any error or request of the page fails the test."""
    with offline_pages(browser) as open_page:
        yield open_page


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_loads_without_errors_and_fits(opened, written, width, theme):
    page = opened(written.folder, width, theme=theme)
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


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_page_of_a_multi_label_classifier(opened, of_labels, width, theme):
    page, document = opened(of_labels.folder, width, theme=theme), of_labels.document
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    keys = ("map", "micro_f1", "macro_f1")
    assert page.locator(".tile b").all_inner_texts() == [f"{100 * document[key]:.2f}%" for key in keys] + [
        f"{100 * document['calibration']['ece']:.2f}%",
        f"{document['loss']:.4f}",
    ]
    assert page.locator("#class-table td[data-key=name]").all_inner_texts() == list(CLASSES)
    assert page.locator("#class-table td[data-key=threshold]").all_inner_texts() == ["0.7000", "0.5000", "0.8000"]
    assert "no images of 1 class" in page.locator("#notes").inner_text()
    assert page.locator("#curve-panels .panel").count() == 2
    found = document["classes"][CLASSES[0]]["average_precision"]
    assert f"AP {100 * found:.2f}%" in page.locator("#curve-panels").inner_text()
    assert page.locator("#mistake-list figure").count() == len(document["confident_mistakes"])
    assert page.locator("#confusions, #matrix, #worst").evaluate_all("all => all.every(section => section.hidden)")
