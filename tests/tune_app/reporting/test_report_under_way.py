"""The first section of a running sweep: open trials, cost so far and to come, what comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from optuna.trial import TrialState, create_trial
from report_page import SECTIONS, ReadSection, ReportPage
from sweep_folder import WrittenTrial, open_study, write_sweep

from tune_app.report import ReportSettings, report
from tune_app.reporting.findings import gather
from tune_app.reporting.under_way import next_arms
from tune_app.results.folders import LOCK
from tune_app.results.sweep import Sweep

ENDED = WrittenTrial(label="weight_uniform", dice=[(0.5, 0.5), (0.8, 0.6), (0.8, 0.7)], family="static")
RUNNING = WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.2)], params={"p": 1.9}, status="running")
PLAN = {"trials": 6, "slots": 2, "epochs": {"expected": 12.0, "low": 9.0, "high": 18.0}}


def shown(folder: Path, trials: list[WrittenTrial], plan: dict[str, Any] | None, seconds: float = 720.0) -> ReadSection:
    """The section, of a sweep whose driver runs, each of whose epochs took so many seconds."""
    write_sweep(folder, trials, status="running")
    if plan is not None:
        (folder / "plan.json").write_text(json.dumps(plan))
    for path in folder.glob("trials/*/history.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "seconds_epoch": seconds}) + "\n" for row in rows))
    with FileLock(folder / LOCK):
        page = ReportPage(report(ReportSettings(sweep=str(folder))).read_text())
    assert tuple(page.sections) == ("under-way", *SECTIONS)
    return page.sections["under-way"]


def test_it_tells_open_trials_and_the_cost_so_far_and_to_come(tmp_path: Path) -> None:
    section = shown(tmp_path / "a", [ENDED, RUNNING, WrittenTrial(label="later", status="waiting")], PLAN)
    rows = section.data["under-way-trials.csv"]
    assert [(row["name"], row["status"], row["epoch"]) for row in rows] == [
        ("0001_seesaw_p1.9", "running", "1 of 3"),
        ("0002_later", "waiting", "0 of 3"),
    ]
    assert float(rows[0]["last mean_dice"]) == pytest.approx(0.3)
    assert "3 trials of 6 begun: 1 ended, 1 running, 1 waiting, 3 still to begin." in section.words
    # 4 epochs of 0.2 h. Two are expected of a trial: 1 of the running, 2 of the waiting, 6 of those to begin.
    assert "So far 48 CPU-minutes in epochs" in section.words
    assert "about 9 epochs, 108 CPU-minutes, 54 minutes on the clock at 2 trials at once." in section.words


def test_a_trial_that_outlived_the_plan_is_taken_to_run_to_its_end(tmp_path: Path) -> None:
    outlived = WrittenTrial(label="longer", dice=[(0.4, 0.2)] * 2, status="running")
    plan = PLAN | {"trials": 2, "epochs": {"expected": 3.0, "low": 3.0, "high": 6.0}}
    section = shown(tmp_path / "a", [ENDED, outlived], plan)
    assert "about 1 epoch," in section.words
    assert "still to begin" not in section.words


def test_the_clock_is_never_more_exact_than_a_minute(tmp_path: Path) -> None:
    section = shown(tmp_path / "a", [ENDED, RUNNING], PLAN, seconds=1.0)
    assert "So far less than a CPU-minute in epochs" in section.words


@pytest.mark.parametrize("plan", [None, {}, {"trials": "many"}, {"trials": 3, "epochs": [1]}, {"arms": [1, ["x"]]}])
def test_without_a_plan_it_says_that_the_rest_is_unknown(tmp_path: Path, plan: dict[str, Any] | None) -> None:
    section = shown(tmp_path / "a", [ENDED, RUNNING], plan)
    assert "What is to come is unknown" in section.words
    assert "Next" not in section.words


def test_before_the_first_trial_there_is_the_plan_alone(tmp_path: Path) -> None:
    section = shown(tmp_path / "a", [], PLAN | {"arms": [["a", 0], ["b", 0]]})
    assert "0 trials of 6 begun: 0 ended, 6 still to begin." in section.words
    assert "Next, as planned: a and b." in section.words
    assert section.tables == 0


def test_the_planned_arms_that_have_not_begun_come_next(tmp_path: Path) -> None:
    arms = [["weight_uniform", 0], ["seesaw_default", 0], ["seesaw_default", 1], *([f"more{i}", 0] for i in range(7))]
    folder = write_sweep(tmp_path / "a", [ENDED], status="running")
    (folder / "plan.json").write_text(json.dumps(PLAN | {"arms": arms}))
    for label in ("weight_uniform", "seesaw_default"):
        told = {"name": f"0001_{label}", "label": label, "seed": 0, "planned": True}
        open_study(folder).add_trial(create_trial(state=TrialState.RUNNING, user_attrs=told))
    words = next_arms(gather(Sweep(folder)))
    assert words == [
        "Next, as planned: seesaw_default (seed 1), more0 (seed 0), more1 (seed 0), more2 (seed 0), more3 (seed 0), "
        "more4 (seed 0) and 2 more."
    ]


def test_a_sweep_that_has_ended_is_not_under_way(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [ENDED, RUNNING], status="interrupted")
    assert tuple(ReportPage(report(ReportSettings(sweep=str(folder))).read_text()).sections) == SECTIONS
