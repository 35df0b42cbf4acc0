"""confirmation.json as a section: who ties, intervals, and fields that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_folder import WrittenTrial, write_sweep

from tune_app.reporting.confirmation import confirmation
from tune_app.reporting.findings import gather
from tune_app.reporting.page import Section
from tune_app.results.sweep import Sweep


def arm(name: str, mean: float, in_set: bool, **more: Any) -> dict[str, Any]:
    base = {"name": name, "mean": mean, "low": mean - 0.02, "high": mean + 0.02, "replicates": 5, "in_set": in_set}
    return base | {"p_best": 0.5, "search_score": mean + 0.03, "winners_curse": 0.03, "sd": None} | more


FOUND: dict[str, Any] = {
    "statement": "No winner: a and b cannot be told apart.",
    "reasons": ["a leads b by 0.0100, and 0.0300 would be needed."],
    "default_choice": "b",
    "default_reason": "the simplest of those that cannot be told apart",
    "cautions": [],
    "baseline": "weight_uniform",
    "class_reference": "weight_uniform",
    "arms": [
        arm("weight_uniform", 0.40, False),
        arm(
            "a",
            0.56,
            True,
            difference_to_baseline=0.16,
            difference_to_baseline_low=0.1,
            difference_to_baseline_high=0.22,
            baseline_p_holm=0.001,
        ),
        arm("b", 0.55, True),
    ],
    "class_differences": [
        {
            "arm": "a",
            "reference": "weight_uniform",
            "class_name": "pm",
            "difference": 0.1,
            "low": 0.0,
            "high": 0.2,
            "p": 0.03,
            "p_holm": 0.06,
            "distinct": False,
        },
        {
            "arm": "a",
            "reference": "weight_uniform",
            "class_name": "nuc",
            "difference": 0.2,
            "low": 0.1,
            "high": 0.3,
            "p": 0.001,
            "p_holm": 0.002,
            "distinct": True,
        },
    ],
}


def section_of(folder: Path, found: Any) -> Section:
    write_sweep(folder, [WrittenTrial(label="a", dice=[(0.5, 0.6)])])
    if found is not None:
        (folder / "confirmation.json").write_text(json.dumps(found))
    return confirmation(gather(Sweep(folder)))


def test_it_says_who_ties_and_what_to_take(tmp_path: Path) -> None:
    section = section_of(tmp_path / "a", FOUND)
    assert section.text[0] == FOUND["statement"]
    assert section.text[2] == "Default choice: b, the simplest of those that cannot be told apart."
    means = section.parts[0]
    assert means.data["name"].tolist() == ["a", "b", "weight_uniform"]
    assert "cannot be told from the best: a and b" in means.alt
    assert "on average 0.0300 above" in means.alt


def test_differences_to_the_baseline_and_the_classes_follow(tmp_path: Path) -> None:
    keys = {part.key: part for part in section_of(tmp_path / "a", FOUND).parts}
    assert list(keys) == ["confirmation-means", "confirmation-baseline", "confirmation-table", "confirmation-classes"]
    assert keys["confirmation-baseline"].data["name"].tolist() == ["a"], "the others have no interval"
    assert keys["confirmation-classes"].data["class_name"].tolist() == ["nuc", "pm"], "the surest first"


@pytest.mark.parametrize("lost", ["statement", "reasons", "default_choice", "baseline", "class_differences"])
def test_a_missing_field_is_left_out(tmp_path: Path, lost: str) -> None:
    section = section_of(tmp_path / "a", {key: value for key, value in FOUND.items() if key != lost})
    assert section.parts
    assert not section.nothing


@pytest.mark.parametrize("found", [None, {}, {"arms": []}, {"arms": [{"name": "a", "mean": None}]}])
def test_without_arms_it_says_why(tmp_path: Path, found: Any) -> None:
    section = section_of(tmp_path / "a", found)
    assert not section.parts
    assert ("tune_app.confirm" if found is None else "damaged, or of another version") in section.nothing
