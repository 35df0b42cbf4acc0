"""Hours by hand: 30 seconds an epoch, one CPU a trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from sweep_folder import WrittenTrial, write_sweep

from tune_app.reporting.curves import curves
from tune_app.reporting.findings import Findings, gather
from tune_app.reporting.ledger import FAILED, REPEATED, SAVED, TRAINED, cost_table, ledger
from tune_app.results.sweep import Sweep

NAN = float("nan")
EPOCH_HOURS = 30 / 3600
TRIALS = [
    WrittenTrial(label="a", dice=[(0.1, 0.1)] * 9),
    WrittenTrial(label="b", dice=[(0.1, 0.1)] * 3, status="stopped early"),
    WrittenTrial(label="c", dice=[(0.1, 0.1), (NAN, NAN)], status="failed: nan", family="static"),
]


def found(folder: Path, trials: list[WrittenTrial], **scheduler: object) -> Findings:
    write_sweep(folder, trials)
    settings = yaml.safe_load((folder / "sweep.yaml").read_text())
    settings |= {"trainer": {"epochs": 9}, "scheduler": {"name": "asha", "grace_period": 3, "reduction_factor": 2.0}}
    settings["scheduler"] |= scheduler
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    return gather(Sweep(folder))


def amounts(findings: Findings) -> dict[tuple[str, str, str], float]:
    costs = cost_table(findings)
    return {
        (r.family, r.kind, r.segment): r.hours / EPOCH_HOURS
        for r in costs.groupby(["family", "kind", "segment"], as_index=False)["hours"].sum().itertuples()
    }


def test_hours_are_counted_between_the_rungs(tmp_path: Path) -> None:
    assert {key: round(value, 9) for key, value in amounts(found(tmp_path / "a", TRIALS)).items()} == {
        ("seesaw", TRAINED, "1–3"): 6,
        ("seesaw", TRAINED, "4–6"): 3,
        ("seesaw", TRAINED, "7–9"): 3,
        ("seesaw", SAVED, "4–6"): 3,
        ("seesaw", SAVED, "7–9"): 3,
        ("static", FAILED, "1–3"): 2,
    }


def test_gpus_are_counted_instead_of_cpus_where_there_are_any(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", TRIALS[:1])
    path = findings.sweep.trials[0].folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"resources": {"cpus_per_trial": 4, "gpus_per_trial": 0.5}}))
    again = gather(findings.sweep.refresh())
    assert sum(amounts(again).values()) == pytest.approx(9 * 0.5)
    assert ledger(again).parts[0].title == "GPU-minutes by family"


def test_what_was_trained_twice_is_told(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", TRIALS[:1])
    folder = findings.sweep.trials[0].folder
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)[:2]
    (folder / "history-before-restart.jsonl").write_text("".join(lines))
    assert amounts(findings)["seesaw", REPEATED, "1–3"] == pytest.approx(2)


def test_rungs_follow_the_settings_and_without_them_the_stops(tmp_path: Path) -> None:
    assert found(tmp_path / "a", TRIALS).rungs == (3, 6)
    assert found(tmp_path / "b", TRIALS, reduction_factor=3.0).rungs == (3,)
    assert found(tmp_path / "c", TRIALS[:1], name="none").rungs == ()
    assert gather(Sweep(write_sweep(tmp_path / "d", TRIALS))).rungs == (3,)


@pytest.mark.parametrize(
    ("last", "more", "early", "stopped", "marked"),
    [
        (3, {"early": True}, 2, 0, (3, 6)),
        (2, {"early": True}, 2, 1, (2, 3, 6)),
        (2, {"early": False}, 0, 0, (3, 6)),
        (2, {}, 0, 0, (3, 6)),
        (2, {"early": True, "grace_period": 1}, 0, 0, (1, 2, 4, 8)),
        (2, {"early": True, "name": "promote"}, 0, 0, (3, 6)),
    ],
)
def test_the_early_rung_is_told_of_and_marked_where_it_stopped_a_trial(
    tmp_path: Path, last: int, more: dict[str, object], early: int, stopped: int, marked: tuple[int, ...]
) -> None:
    trials = [TRIALS[0], WrittenTrial(label="b", dice=[(0.1, 0.1)] * last, status="stopped early")]
    findings = found(tmp_path / "a", trials, **more)
    assert (findings.early_rung, findings.stopped_before_first_rung, findings.marked_rungs) == (early, stopped, marked)
    said = [line for line in curves(findings).text if line.startswith("The early rung at epoch 2")]
    assert len(said) == bool(early)
    assert not said or said[0].endswith(f"{stopped} trial{'' if stopped == 1 else 's'} stopped by it.")
    assert (("seesaw", SAVED, "3") in amounts(findings)) == bool(stopped)


@pytest.mark.parametrize(("trials", "said"), [(TRIALS, True), (TRIALS[::2], False)])
def test_stopping_early_is_spoken_of_where_something_was_stopped(
    tmp_path: Path, trials: list[WrittenTrial], said: bool
) -> None:
    alt = ledger(found(tmp_path / "a", trials)).parts[0].alt
    assert ("stopping early" in alt) == ("Striped" in alt) == said


def test_no_times_no_ledger(tmp_path: Path) -> None:
    assert "no epoch says how long" in ledger(gather(Sweep(write_sweep(tmp_path / "a", [])))).nothing
