"""What a search holds, and when that is good enough, on tables made up here."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import early_stopping, record_curves
from benchmarks.learning_curves import Table, phantom
from benchmarks.replay import Step
from search_spaces import PUBLISHED, ClassCounts, all_presets, space_of, together_in_all

EPOCHS = 9
COUNTS = ClassCounts.published()


@pytest.fixture(scope="module")
def wanted() -> list[dict]:
    return record_curves.configurations(COUNTS, 1e6, per_family=2)


def run_of(configuration: dict, seed: int, final: float) -> dict:
    curve = [round(final * epoch / EPOCHS, 5) for epoch in range(1, EPOCHS + 1)]
    return {"signature": configuration["signature"], "seed": seed, "mean_dice": curve, "dice": {"nuc": curve}}


def made_up(wanted: list[dict], folder: Path, finals: dict[str, float]) -> Table:
    """A table whose curves rise to `finals` (0.3 where nothing is said), written and read as recorded ones are."""
    lines, path = folder / "lines.jsonl", folder / "table.json.gz"
    runs = [run_of(c, seed, finals.get(c["name"], 0.3) + 0.001 * seed) for c in wanted for seed in range(2)]
    lines.write_text("\n".join(json.dumps(run) for run in runs))
    record_curves.write_table(wanted, 2, lines, path)
    return phantom(path)


def test_all_presets_and_every_family_are_recorded(wanted: list[dict]) -> None:
    names = [c["name"] for c in wanted]
    presets = [name for name, preset in all_presets().items() if preset.family in together_in_all()]
    assert set(presets) <= set(names)
    assert len(wanted) == len(presets) + 2 * len(together_in_all())
    space = space_of("all")
    for c in wanted:
        assert all(space[key].contains(value) for key, value in c["searched"].items())


def test_the_random_points_are_the_same_every_time(wanted: list[dict]) -> None:
    assert record_curves.configurations(COUNTS, 1e6, per_family=2) == wanted


def test_a_line_cut_short_is_left_out_and_recorded_runs_are_found(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"signature": "a", "seed": 1, "mean_dice": [0.5]}\n{"signature": "b", "se')
    assert list(record_curves.read_lines(path)) == [("a", 1)]
    assert record_curves.read_lines(tmp_path / "none.jsonl") == {}


def test_only_complete_seeds_enter_the_table(wanted: list[dict], tmp_path: Path) -> None:
    lines, path = tmp_path / "lines.jsonl", tmp_path / "table.json.gz"
    runs = [run_of(c, seed, 0.5) for seed in range(2) for c in wanted][:-1]
    lines.write_text("\n".join(json.dumps(run) for run in runs))
    record_curves.write_table(wanted, 2, lines, path)
    document = json.loads(gzip.decompress(path.read_bytes()))
    assert document["seeds"] == [0]
    assert document["settings"]["trainer"]["epochs"] == EPOCHS
    assert phantom(path).scores.shape == (len(wanted), 1, EPOCHS)


def test_value_is_the_mean_over_seeds_of_the_best_so_far() -> None:
    scores = np.array([[[0.2, 0.1, 0.6], [0.4, math.nan, math.nan]], [[math.nan] * 3, [0.1, 0.2, 0.3]]])
    none = np.empty((0, 0))
    table = Table(name="t", space={}, points=[{}, {}], scores=scores, validation=none, test=none)
    found = early_stopping.values_by_epoch(table)
    assert found == pytest.approx(np.array([[0.3, 0.3, 0.5], [0.05, 0.1, 0.15]]))


def test_held_is_the_best_observed_at_what_it_is_worth() -> None:
    values = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    steps = [
        Step(0, 0, 0, 1, math.nan),  # nothing is held yet
        Step(0, 0, 0, 2, 0.50),  # held by a lucky seed
        Step(1, 1, 0, 1, 0.45),  # better, but it does not look so
        Step(0, 0, 0, 3, 0.20),  # no new best, but the trial has gone on
        Step(1, 1, 0, 2, 0.55),
    ]
    assert list(early_stopping.held_values(steps, values, 1)) == pytest.approx([0.0, 0.2, 0.2, 0.3, 0.5])
    assert list(early_stopping.held_values(steps, values, 2)) == pytest.approx([0.0, 0.2, 0.4, 0.4, 0.5])


def test_the_first_place_of_the_grid_may_be_luck(wanted: list[dict], tmp_path: Path) -> None:
    """Two seeds; the best one wins with the first, a lucky one with the second."""
    best, lucky = PUBLISHED[2], PUBLISHED[5]
    lines, path = tmp_path / "lines.jsonl", tmp_path / "table.json.gz"
    finals = {(best, 0): 0.6, (best, 1): 0.6, (lucky, 0): 0.3, (lucky, 1): 0.7}
    runs = [run_of(c, seed, finals.get((c["name"], seed), 0.2)) for c in wanted for seed in range(2)]
    lines.write_text("\n".join(json.dumps(run) for run in runs))
    record_curves.write_table(wanted, 2, lines, path)
    assert early_stopping.first_places_of_the_grid(phantom(path)) == [True, False]


def test_the_target_is_the_best_published_one_less_the_tolerance(wanted: list[dict], tmp_path: Path) -> None:
    searched = next(c["name"] for c in wanted if c["name"] not in all_presets())
    table = made_up(wanted, tmp_path, {PUBLISHED[3]: 0.6, searched: 0.9})
    assert early_stopping.target(table) == pytest.approx(0.6 + 0.0005 - early_stopping.TOLERANCE)


def test_the_target_is_reached_when_the_best_preset_is_trained_that_far(wanted: list[dict], tmp_path: Path) -> None:
    table = made_up(wanted, tmp_path, {PUBLISHED[0]: 0.6})
    ratio, kept = early_stopping.epochs_to_target(table, early_stopping.default_settings(), seed=0)
    assert ratio <= 4 * EPOCHS / (15 * EPOCHS)  # it is the first of the list, on one of four slots
    assert kept


def test_a_target_that_is_never_reached_counts_as_the_limit(
    wanted: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = made_up(wanted, tmp_path, {})
    monkeypatch.setattr(early_stopping, "TOLERANCE", -0.5)
    assert early_stopping.epochs_to_target(table, early_stopping.default_settings(), seed=0) == (2.0, False)
