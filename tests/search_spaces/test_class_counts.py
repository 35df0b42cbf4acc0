"""Class counts: the published file, files of one's own, and broken ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from search_spaces import ClassCounts
from trainables.losses import SettingsError


def test_published_counts_are_the_table_and_its_frequencies() -> None:
    counts = ClassCounts.published()
    assert counts.classes == ("nuc", "mito_mem", "er_mem", "pm", "golgi_mem")
    assert counts.positive == (3537231, 1781370, 1662007, 653198, 536370)
    shares = [n / known for n, known in zip(counts.positive, counts.known, strict=True)]
    assert shares == pytest.approx([0.1193, 0.0601, 0.0560, 0.0220, 0.0181], abs=1e-4)


def test_a_file_round_trips(tmp_path: Path) -> None:
    counts = ClassCounts(("a", "b"), (1, 2), (10, 20), "test")
    path = tmp_path / "class_frequencies.json"
    path.write_text(json.dumps(asdict(counts)))
    read = ClassCounts.from_json(path)
    assert (read.classes, read.positive, read.known) == (("a", "b"), (1, 2), (10, 20))


def test_select_reorders_and_refuses_what_was_not_counted() -> None:
    counts = ClassCounts.published()
    assert counts.select(["pm", "nuc"]).positive == (653198, 3537231)
    with pytest.raises(SettingsError, match=r"no counts for ves.*Counted: nuc[\s\S]*tune_app\.frequencies"):
        counts.select(["nuc", "ves"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ("[" * 9999, "cannot be read"),
        (json.dumps({"classes": [["a"]], "positive": [1], "known": [4]}), "every class must be a name"),
        ('{"classes": ["a"]}', "positive, known must be a list"),
        (json.dumps({"classes": ["a"], "positive": [5], "known": [4]}), "0 ≤ positive ≤ known must hold for a"),
        (json.dumps({"classes": ["a"], "positive": ["x"], "known": [4]}), "must hold for a"),
        (json.dumps({"classes": ["a", "a"], "positive": [1, 1], "known": [4, 4]}), "twice"),
        (json.dumps({"classes": ["a", "b"], "positive": [1], "known": [4, 4]}), "same length"),
        (json.dumps({"classes": [], "positive": [], "known": []}), "at least one class"),
    ],
)
def test_broken_files_say_which_and_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "counts.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        ClassCounts.from_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read[\s\S]*tune_app\.frequencies"):
        ClassCounts.from_json(tmp_path / "none.json")
