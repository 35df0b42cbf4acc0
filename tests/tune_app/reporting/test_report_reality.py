"""The plan beside what came of it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from sweep_folder import WrittenTrial, write_sweep

from tune_app.reporting.findings import Findings, gather
from tune_app.reporting.ledger import PAUSE_S, compared, plan_and_reality, running_seconds, wall_hours
from tune_app.results.sweep import Sweep

CREATED = "2024-05-01T10:00:00+00:00"
START = datetime.fromisoformat(CREATED).timestamp()


def found(folder: Path, times: list[tuple[float, float, float]], plan: object = None) -> Findings:
    """One trial whose epochs were set up, begun and ended at these seconds after the sweep's beginning."""
    write_sweep(folder, [WrittenTrial(label="a", dice=[(0.1, 0.2)] * len(times))], created=CREATED)
    path = folder / "trials" / "0000_a" / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, (setup, began, ended) in zip(rows, times):
        row |= {"time_setup": START + setup, "time_started": START + began, "time_ended": START + ended}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if plan is not None:
        (folder / "plan.json").write_text(json.dumps(plan))
    return gather(Sweep(folder))


def test_hours_count_from_the_beginning_without_pauses(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", [(10, 20, 100), (10, 101, 200), (9000, 9010, 9100)])
    assert wall_hours(findings) * 3600 == pytest.approx(200 + 100)


def test_spans_that_overlap_are_counted_once() -> None:
    assert running_seconds([(0, 10), (5, 20), (20 + PAUSE_S / 2, 21 + PAUSE_S / 2)]) == 21 + PAUSE_S / 2
    assert running_seconds([(0, 10), (10 + 2 * PAUSE_S, 11 + 2 * PAUSE_S)]) == 11


def test_planned_and_found_stand_side_by_side(tmp_path: Path) -> None:
    plan = {"trials": 1, "epochs": {"expected": 4, "low": 3, "high": 5}, "wall_hours": None, "basis": "sweep x"}
    section = plan_and_reality(found(tmp_path / "a", [(1, 2, 3)] * 2, plan))
    rows = section.parts[0].frame.set_index("").to_dict("index")
    assert rows["trials"]["found / planned"] == "1.00"
    assert (rows["epochs"]["planned"], rows["epochs"]["found"], rows["epochs"]["in range"]) == ("4", "2", "no")
    assert "hours on the clock" not in rows
    assert "sweep x" in section.text[0]


def test_odd_values_are_no_plan() -> None:
    assert compared("x", {"expected": "many"}, 1.0) is None
    assert compared("x", None, 1.0) is None
    assert compared("x", {"expected": 2.0, "low": None, "high": 3.0}, 1.0)["in range"] == ""
