"""What the sweep tells Prometheus, without Ray: the gauges are stand-ins."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tune_app import gauges


class Recorded:
    """Stands where Ray's Gauge would; keeps what was set."""

    values: dict[tuple, float] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, set(tag_keys)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == self.keys, "Ray refuses other tags"
        self.values[(self.name, *tags.values())] = value


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(gauges, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    return Recorded.values


def trial(name: str, status: str = "RUNNING", **params: float) -> SimpleNamespace:
    config = {"run": {"name": name}, "loss": {"name": "seesaw", "params": params}}
    return SimpleNamespace(config=config, status=status)


def test_rows_become_gauges_with_the_trial_in_the_tags(recorded):
    callback = gauges.SweepGauges("s", gpus=0.5)
    row = {"mean_dice": 0.4, "dice/nuc": 0.8, "dice/pm": math.nan, "epoch": 3, "seconds_epoch": 7200.0, "note": "x"}
    callback.on_trial_result(1, [], trial("0001_a", p=0.8123456, q=2.0), row)
    callback.on_trial_result(2, [], trial("0002_b", p=1.0), {"mean_dice": 0.3, "epoch": 1, "seconds_epoch": 3600.0})
    assert recorded == {
        ("tune_app_mean_dice", "s", "0001_a", "seesaw p=0.8123 q=2"): 0.4,
        ("tune_app_epoch", "s", "0001_a", "seesaw p=0.8123 q=2"): 3,
        ("tune_app_mean_dice", "s", "0002_b", "seesaw p=1"): 0.3,
        ("tune_app_epoch", "s", "0002_b", "seesaw p=1"): 1,
        ("tune_app_dice", "s", "0001_a", "nuc"): 0.8,
        ("tune_app_best_mean_dice", "s"): 0.4,
        ("tune_app_gpu_hours", "s"): 1.5,
    }


def test_trials_are_counted_by_state(recorded):
    callback = gauges.SweepGauges("s", gpus=0)
    callback.on_step_end(1, [trial("a"), trial("b"), trial("c", "TERMINATED")])
    assert recorded == {
        ("tune_app_trials", "s", "RUNNING"): 2,
        ("tune_app_trials", "s", "PENDING"): 0,
        ("tune_app_trials", "s", "TERMINATED"): 1,
    }


def test_a_row_without_figures_sets_nothing(recorded):
    gauges.SweepGauges("s", gpus=1).on_trial_result(1, [], trial("a"), {"mean_dice": math.nan, "done": True})
    assert recorded == {}
