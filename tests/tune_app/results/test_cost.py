"""What scores cost: the columns, the Pareto front, and where they are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_page import read_report
from sweep_folder import WrittenTrial, summarise, write_sweep

from trainables.objective import Objective
from tune_app.report import ReportSettings, report
from tune_app.results.cost import HOURS, MEMORY, costs, front
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial

LOSS = Objective(metric="val_loss", mode="min")
DICE = Objective(metric="mean_dice")
NAN = math.nan


def trial(number: int, score: float, hours: float, *, objective: Objective = DICE, **more: float) -> Trial:
    rows = ({"epoch": 1, objective.metric: score, "seconds_epoch": 3600 * hours, **more},)
    return Trial(
        name=f"{number:04d}_t", number=number, folder=Path(), status="finished", objective=objective, history=rows
    )


def numbers(found: Sequence[Trial]) -> list[int]:
    return [one.number for one in found]


def test_the_front_is_that_of_all_pairs() -> None:
    """Against the definition; scores and costs are rounded, so that there are ties in both."""
    rng = np.random.default_rng(0)
    for mode in ("max", "min"):
        objective = Objective(metric="score", mode=mode)
        for _ in range(20):
            pairs = rng.uniform(0.1, 1, (30, 2)).round(1)
            trials = [trial(i, s, h, objective=objective) for i, (s, h) in enumerate(pairs)]
            value = {i: (objective.score(t.best), -costs(t)[HOURS]) for i, t in enumerate(trials)}
            wanted = {
                i
                for i, own in value.items()
                if not any(all(a >= b for a, b in zip(v, own)) and v != own for v in value.values())
            }
            found = front(trials, HOURS)
            assert set(numbers(found)) == wanted
            assert [costs(t)[HOURS] for t in found] == sorted(costs(t)[HOURS] for t in found)


def test_who_is_not_on_a_front() -> None:
    best = trial(0, 0.5, 1.0)
    failed = replace(trial(1, 0.9, 0.1), status="failed: nan")
    without = [trial(2, NAN, 0.1), trial(3, 0.9, NAN)]
    assert numbers(front([best, failed, *without], HOURS)) == [0]
    assert front([], HOURS) == []
    assert front([best], MEMORY) == []
    assert numbers(front([trial(0, 0.5, 1, gpu_memory_mb=2048.0), trial(1, 0.4, 1, gpu_memory_mb=1024.0)], MEMORY)) == [
        1,
        0,
    ]


def test_a_trial_that_misses_a_bound_is_on_no_front() -> None:
    bounded = Objective(metric="mean_dice", at_least={"precision": 0.6})
    cheap = trial(0, 0.9, 0.1, objective=bounded, precision=0.5)
    assert numbers(front([cheap, trial(1, 0.4, 1.0, objective=bounded, precision=0.7)], HOURS)) == [1]
    assert front([cheap], HOURS) == []


def test_the_costs_of_a_trial() -> None:
    rows = tuple(
        {"epoch": e, "mean_dice": d, "seconds_epoch": 1800.0, "gpu_memory_mb": m}
        for e, d, m in ((1, 0.2, 1024.0), (2, 0.6, 3072.0), (3, 0.5, 3072.0))
    )
    config = {"resources": {"gpus_per_trial": 0.5, "cpus_per_trial": 4}}
    one = replace(trial(0, 0.0, 0.0), history=rows, config=config)
    assert costs(one) == {HOURS: 0.75, "score_per_hour": pytest.approx(0.6 / 0.5), MEMORY: 3.0}
    lost = costs(replace(one, history=({"epoch": 1, "mean_dice": 0.1},)))
    assert all(map(math.isnan, lost.values()))
    assert math.isnan(costs(trial(0, 0.3, 1.0, objective=LOSS))["score_per_hour"]), "a loss is not bought by the hour"


SIZED = [
    WrittenTrial(label="network_small", dice=[(0.3, 0.3), (0.5, 0.5)]),
    WrittenTrial(label="network_large", dice=[(0.4, 0.6), (0.6, 0.8)], family="network_of_another_family"),
    WrittenTrial(label="network_poor", dice=[(0.1, 0.1)], status="stopped early"),
    WrittenTrial(label="network_middle", dice=[(0.2, 0.2), (0.45, 0.65)]),
]
SIZES = {0: (4, 30.0, 2000), 1: (32, 900.0, 20_000), 2: (32, 900.0, 20_000), 3: (16, 120.0, 1000)}
"""{trial: (width, seconds of an epoch, megabytes)}."""


@pytest.fixture
def sized(tmp_path: Path) -> Path:
    """A sweep of three networks on half a card each."""
    folder = write_sweep(tmp_path / "results" / "sized", SIZED)
    for path in (folder / "trials").iterdir():
        width, seconds, memory = SIZES[int(path.name[:4])]
        config = json.loads((path / "config.json").read_text())
        config["model"]["width"] = width
        config["resources"]["gpus_per_trial"] = 0.5
        (path / "config.json").write_text(json.dumps(config))
        rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
        told = [{**row, "seconds_epoch": seconds, "gpu_memory_mb": memory} for row in rows]
        (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return folder


@pytest.mark.parametrize("form", ["table", "md"])
def test_a_summary_shows_costs_where_models_differ(sized: Path, form: str) -> None:
    text = summarise(sized, format=form)
    for words in ("GPU-hours", "score per", "memory GB"):
        assert words in text
    assert "minutes" not in text
    assert (
        "None is better for fewer GPU-hours: 0000_network_small (0.5000, 0.00833 GPU-hours), "
        "0003_network_middle (0.5500, 0.0333 GPU-hours), 0001_network_large (0.7000, 0.25 GPU-hours)."
        in text.replace("\\\\", "")
    )
    assert "None is better for less GPU memory: 0003_network_middle (0.5500, 0.977 GB), 0001_network_large" in text


def test_csv_and_json_have_the_costs_of_every_sweep(sized: Path, tmp_path: Path) -> None:
    board = Sweep(sized).leaderboard().set_index("number")
    assert board.loc[1, ["device_hours", "score_per_hour", "gpu_memory_gb"]].tolist() == pytest.approx(
        [0.25, 0.7 / 0.25, 20_000 / 1024]
    )
    assert json.loads(summarise(sized, format="json"))["pareto"] == {
        "device_hours": ["0000_network_small", "0003_network_middle", "0001_network_large"],
        "gpu_memory_gb": ["0003_network_middle", "0001_network_large"],
    }
    plain = write_sweep(tmp_path / "plain", SIZED)
    assert "device_hours,score_per_hour,gpu_memory_gb" in summarise(plain, format="csv")
    assert json.loads(summarise(plain, format="json"))["leaderboard"][0]["gpu_memory_gb"] is None


def test_a_sweep_of_one_model_looks_as_ever(tmp_path: Path) -> None:
    plain = write_sweep(tmp_path / "plain", SIZED)
    text = summarise(plain)
    for words in ("CPU-hours", "score per", "memory GB", "better for"):
        assert words not in text
    assert "leaderboard-device-hours" not in report(ReportSettings(sweep=str(plain))).read_text()


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_can_be_read(sized: Path, width: int) -> None:
    text = summarise(sized, width=width)
    assert max(map(len, text.split("None is")[0].splitlines()[1:])) <= width
    assert "0.00833" in text or "0.008333" in text


def test_the_report_draws_the_fronts(sized: Path) -> None:
    read = read_report(report(ReportSettings(sweep=str(sized))))
    board = read.sections["leaderboard"]
    assert {"leaderboard-device-hours", "leaderboard-gpu-memory-gb"} <= set(board.plots)
    rows = board.data["leaderboard-device-hours.csv"]
    assert [(r["name"], r["on_front"]) for r in rows] == [
        ("0000_network_small", "True"),
        ("0003_network_middle", "True"),
        ("0002_network_poor", "False"),
        ("0001_network_large", "True"),
    ]
    alt = next(alt for alt in board.alts if "staircase" in alt)
    assert "0.5000 at 0.00833 (0000_network_small) up to 0.7000 at 0.25 (0001_network_large)" in alt
