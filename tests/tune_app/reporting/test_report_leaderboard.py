"""Intervals of repeated arms, and what is compared with what."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from sweep_folder import UNIFORM, WrittenTrial, write_sweep

from tune_app.evidence.critical import t_critical
from tune_app.reporting.findings import Findings, gather
from tune_app.reporting.leaderboard import BARS, arm_intervals, classes, compared, leaderboard
from tune_app.results.sweep import Sweep


def runs(label: str, scores: list[float], **more: object) -> list[WrittenTrial]:
    """One run of a configuration per score, each with a seed of its own."""
    return [
        WrittenTrial(label=label, dice=[(score, score)], signature=label, seed=seed, **more)
        for seed, score in enumerate(scores)
    ]


def found(folder: Path, trials: list[WrittenTrial]) -> Findings:
    return gather(Sweep(write_sweep(folder, trials)))


def test_intervals_of_repeated_arms_use_the_pooled_noise(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", [*runs("a", [0.5, 0.6]), *runs("b", [0.3, 0.34, 0.32]), *runs("c", [0.9])])
    table = arm_intervals(findings).set_index("arm")
    variance = (0.005 + 0.0008) / 3
    half = t_critical(3, 0.05) * math.sqrt(variance / 2)
    assert table.loc["a", ["mean", "low", "high"]].tolist() == pytest.approx([0.55, 0.55 - half, 0.55 + half])
    assert table.loc["b", "high"] - table.loc["b", "mean"] == pytest.approx(half * math.sqrt(2 / 3))
    assert math.isnan(table.loc["c", "low"])
    assert list(table.index) == ["c", "a", "b"]


def test_without_repeats_there_is_no_interval_and_it_says_how_to_get_one(tmp_path: Path) -> None:
    section = leaderboard(found(tmp_path / "a", [*runs("a", [0.5]), *runs("b", [0.3])]))
    assert arm_intervals(found(tmp_path / "b", runs("a", [0.5])))["low"].isna().all()
    assert "tune_app.confirm" in section.parts[0].alt


@pytest.mark.parametrize(("scores", "word"), [([0.5, 0.502], "cannot"), ([0.9, 0.902], "can be")])
def test_a_lead_is_held_against_the_noise(tmp_path: Path, scores: list[float], word: str) -> None:
    section = leaderboard(found(tmp_path / "a", [*runs("a", scores), *runs("b", [0.49, 0.5])]))
    assert word in section.text[0]


def test_an_arm_that_was_always_stopped_keeps_its_score_without_runs(tmp_path: Path) -> None:
    table = arm_intervals(found(tmp_path / "a", runs("a", [0.5], status="stopped early")))
    assert table.loc[0, ["mean", "runs"]].tolist() == [0.5, 0]


def test_bars_show_each_configuration_once_and_always_the_baseline(tmp_path: Path) -> None:
    trials = [trial for number in range(9) for trial in runs(f"x{number}", [0.9 - 0.05 * number, 0.1])]
    base = WrittenTrial(label="weight_uniform", family="static", signature=UNIFORM, dice=[(0.01, 0.01)])
    findings = found(tmp_path / "a", [*trials, base])
    names = [trial.label for trial in compared(findings)]
    assert names == [*(f"x{number}" for number in range(BARS)), "weight_uniform"]
    assert set(classes(findings).parts[0].data["name"]) == {trial.name for trial in compared(findings)}
