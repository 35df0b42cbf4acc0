"""Two records differ where one figure, trial or row does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.same_results import differences, history

RECORD: dict[str, Any] = {
    "all": {
        "trials": {"0000_uniform": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": float("nan")}]},
        "study": [{"state": "COMPLETE"}, {"state": "PRUNED"}],
    }
}


def found(after: dict[str, Any]) -> list[str]:
    return list(differences(RECORD, after))


def test_a_record_is_the_same_as_its_copy():
    assert found(json.loads(json.dumps(RECORD))) == [], "NaN is NaN"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (
            ("trials", "0000_uniform", 0, "loss"),
            0.5 + 2**-53,
            "0000_uniform 0 loss: 0.5 before, 0.5000000000000001 after",
        ),
        (("trials", "0000_uniform", 1, "loss"), 0.5, "0000_uniform 1 loss: nan before, 0.5 after"),
        (("trials", "0001_seesaw"), [], "0001_seesaw: None before, [] after"),
        (("study",), [{"state": "COMPLETE"}], "study: 2 before, 1 after"),
        (("study", 1, "state"), "COMPLETE", "study 1 state: 'PRUNED' before, 'COMPLETE' after"),
    ],
)
def test_what_differs_is_told_with_its_place(place, value, told):
    after = copy.deepcopy(RECORD)
    *way, last = ("all", *place)
    inner: Any = after
    for step in way:
        inner = inner[step]
    inner[last] = value
    [line] = found(after)
    assert line.endswith(told)


def test_times_are_left_out(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1, "loss": 0.5, "seconds_load": 1.0, "time_ended": 2.0, "crc32": 7}\n')
    assert history(path) == [{"epoch": 1, "loss": 0.5}]
