"""The prose check finds what it is for, and leaves the rest alone."""

from __future__ import annotations

import pytest
from check_prose import banned_words, bare_relatives, main, markdown_page, sentences, words


@pytest.mark.parametrize(
    "text",
    [
        "A block that weighs its channels by what the image shows.",
        "It skips those that were corrupt.",
        "The accuracy is that of the plain network.",
        "That is rounding.",
        "An evaluation uses the images of the run and says which.",
        "The report lists which ones were skipped.",
        "The keys show whose it is.",
        "Who calls an operator directly gets an error.",
        "Some images are kept, those are used later.",
    ],
)
def test_a_bare_relative_is_found(text):
    assert len(bare_relatives(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Training skips images that are corrupt.",
        "The message reports that the image is corrupt.",
        "That image is skipped.",
        "Those images are skipped.",
        "The network, which has 16 blocks, keeps its output.",
        "The option chooses the split on which it is evaluated.",
        "It needs a network whose blocks have a shortcut.",
        "The name of the person who trained it is stored.",
    ],
)
def test_an_ordinary_clause_is_none(text):
    assert not bare_relatives(text)


def test_questions_may_ask_what():
    assert not markdown_page("page", "What does SE cost?").relatives
    assert markdown_page("page", "## What it costs").relatives


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("The command says so.", "says"),
        ("A broken image is skipped.", "broken image"),
        ("Each map is read twice; maps are large.", "maps"),
        ("The house is built so.", "house"),
        ("An honest figure.", "honest"),
        ("Two processors train.", "processors"),
    ],
)
def test_a_banned_word_is_found(text, word):
    assert word in [found for found, _ in banned_words(text)]


def test_the_words_of_the_field_are_allowed():
    text = "Feature maps and activation maps. A layer maps inputs to outputs. Troubleshooting, hidden units, household."
    assert not banned_words(text)


def test_code_tables_links_and_quotations_are_left_out():
    text = """<!-- what; what -->
# Title with `what`

Run `senet; what` on [a page](https://said.what/;) that prints "what; said".

```python
what; those that said
```

| what | said; told |
|---|---|

- First item; a semicolon
  goes on here.
- Second item.

!!! note "what"
    Indented text.
"""
    page = markdown_page("page", text)
    assert page.headings == ["Title with CODE"]
    assert page.sentences == [
        "Run CODE on a page that prints QUOTE.",
        "First item; a semicolon goes on here.",
        "Second item.",
        "Indented text.",
    ]
    assert (len(page.semicolons), page.relatives, page.banned) == (1, [], [])


def test_sentences_end_where_they_end():
    assert sentences("One, e.g. Two, et al. Three. Four (five). CODE is 0.5. Six") == [
        "One, e.g. Two, et al. Three.", "Four (five).", "CODE is 0.5.", "Six",
    ]  # fmt: skip
    assert len(words("SE-ResNet-50 isn't 1,000 x 2.5%")) == 5


def test_a_page_above_a_limit_fails(tmp_path, capsys):
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("The command trains a network.\n")
    bad.write_text("The command; says; what it does.\n")
    assert main([str(good)]) == 0
    assert main([str(bad)]) == 1
    out = capsys.readouterr().out
    assert "semicolons, banned words" in out
    assert "says -> report" in out
