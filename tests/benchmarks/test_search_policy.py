"""Regret and its intervals, by hand."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from optuna.samplers import GridSampler
from ray.tune.schedulers import FIFOScheduler

from benchmarks.learning_curves import Table
from benchmarks.peers.exported import ExportedTable
from benchmarks.peers.ray_search import HyperbandReplay, hyperband, sampled
from benchmarks.peers.search_peers import export, is_measured, read_lines, regrets, write_record
from benchmarks.policies import RandomSearch
from benchmarks.replay import Replay, Search, Step
from benchmarks.search_policy import (
    BUDGETS,
    RECORD,
    SHARED,
    against_best,
    compared,
    interval,
    is_worse,
    markdown,
    read_record,
    regret,
    regret_scales,
)
from search_spaces import Float

VALIDATION = np.array([[3.0, 1.0], [2.0, 4.0], [math.nan, math.nan], [5.0, 3.0], [math.nan, 9.0]])
TEST = np.array([[3.5, 1.5], [2.5, 4.5], [math.nan, math.nan], [5.5, 3.5], [math.nan, 9.5]])
TABLE = Table(
    name="t",
    space={"x": Float(0, 1)},
    points=[{"x": i / 4} for i in range(5)],
    scores=np.exp(-VALIDATION)[:, None],
    validation=VALIDATION,
    test=TEST,
)


def step(row: int, epoch: int) -> Step:
    return Step(trial=row, row=row, repeat=0, epoch=epoch, score=float(TABLE.scores[row, 0, epoch - 1]))


def test_scales_are_the_best_and_the_median_configuration_at_their_best_epochs() -> None:
    assert regret_scales(TABLE) == [(1.0, 3.0), (1.5, 3.5)]


def test_regret_is_one_at_the_median_and_zero_at_the_best() -> None:
    assert regret(TABLE, [step(3, 1), step(3, 2)]) == pytest.approx([1.0, 1.0])
    assert regret(TABLE, [step(3, 1), step(0, 2), step(4, 1)]) == pytest.approx([0.0, 0.0])


def test_the_test_loss_is_that_of_the_epoch_chosen_by_validation() -> None:
    assert regret(TABLE, [step(1, 1), step(1, 2)]) == pytest.approx([0.5, 0.5])


def test_a_search_that_saw_no_finite_loss_is_where_the_median_is() -> None:
    assert regret(TABLE, [step(2, 1), step(2, 2)]).tolist() == [1.0, 1.0]


def test_an_interval_holds_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.3, 1.0, 20), rng.normal(0.3, 1.0, 2000)
    assert interval(few)[0] < few.mean() < interval(few)[1]
    assert np.diff(interval(many)) < np.diff(interval(few))


@pytest.mark.parametrize(("shift", "worse"), [(0.5, True), (0.0, False), (-0.5, False)])
def test_worse_means_surely_larger(shift: float, worse: bool) -> None:
    values = np.random.default_rng(0).normal(0.0, 0.3, 40)
    assert is_worse(values - values.mean() + shift) is worse


def test_results_say_where_ours_is_worse() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.2, 0.3, (2, 30, len(BUDGETS), 2))
    mine = theirs.copy()
    mine[0] -= 0.1
    mine[1, :, -1] += rng.uniform(0.05, 0.15, (30, 2))
    *differences, count = compared(mine, theirs, "a peer", ["first", "second"])
    assert len(differences) == len(BUDGETS)
    assert differences[0].values == pytest.approx((-0.1, 0.0))
    assert differences[0].reached
    assert count.values == (1.0,)
    assert not count.reached
    assert "second at 1000" in count.note


def test_a_peer_with_fewer_seeds_and_budgets_is_compared_on_what_it_has() -> None:
    mine = np.random.default_rng(0).uniform(0.2, 0.3, (2, 10, len(BUDGETS), 2))
    theirs = mine[:, :4] + 0.1
    theirs[:, :, 2:] = np.nan
    differences = list(compared(mine, theirs, "a peer", ["first", "second"]))  # no verdict for each table
    assert [result.claim.split()[2] for result in differences] == ["100", "250"]
    assert all(result.values == pytest.approx((-0.1, -0.1)) for result in differences)
    assert all("4 seeds" in result.note for result in differences)


def test_seeds_that_a_peer_has_at_one_budget_only_count_there_alone() -> None:
    mine = np.random.default_rng(0).uniform(0.2, 0.3, (2, 10, len(BUDGETS), 2))
    theirs = mine + 0.1
    theirs[:, 2:, 2:] = np.nan  # two seeds went on to the large budgets
    *differences, count = compared(mine, theirs, "a peer", ["first", "second"])
    assert [result.note.split("; ")[1] for result in differences] == ["10 seeds", "10 seeds", "2 seeds", "2 seeds"]
    assert count.note.startswith("of 4;")  # two tables at two budgets; two seeds judge no table
    _, large = against_best(mine, {"a peer": theirs})
    assert large.note.endswith("2 seeds")
    assert large.values == pytest.approx((mine[:, :2, -1, 0].mean() / theirs[:, :2, -1, 0].mean(),))


def test_how_all_stand_as_a_table() -> None:
    theirs = np.full((2, 6, len(BUDGETS), 2), 0.4)
    theirs[1] = 0.2
    theirs[:, 2:, 3:] = np.nan
    *head, ours, peer = markdown(np.full_like(theirs, 0.25), {"a peer": theirs}, ["a", f"{SHARED}b"]).splitlines()
    assert len(head) == 2
    assert ours == "| **ours** | 6 | 0.250 | 0.250 | 0.250 | 0.250 |  |  |"
    even, few = "0.300, −0.050 ± 0.000", "0.300, −0.050 (2 seeds)"
    assert peer == f"| a peer | 6 | {even} | {even} | {even} | {few} | b +0.05 | b +0.05 |"


def test_the_best_peer_is_the_one_that_ours_is_the_largest_multiple_of() -> None:
    shape = (2, 3, len(BUDGETS), 2)
    slow = np.full(shape, 0.4)
    fast = np.full(shape, 0.2)
    fast[:, :, -1] = np.nan
    small, large = against_best(np.full(shape, 0.1), {"slow": slow, "fast": fast})
    assert small.values == pytest.approx((0.5,))
    assert "of fast" in small.note
    assert large.values == pytest.approx((0.25,))
    assert "of slow" in large.note


def test_the_record_gives_the_tables_that_are_asked_for_and_names_one_that_is_missing(tmp_path: Path) -> None:
    names = ["a", "b"]
    lines = {
        ("random", name, seed): [[i, seed], None, [0, 1], [0, 1]] for i, name in enumerate(names) for seed in (0, 1)
    }
    lines["BOHB", "a", 0] = [[0, 0]] * 4
    path = tmp_path / "record.json.gz"
    write_record(lines, {"ray": "1"}, path)
    found = read_record(path, ["b"])
    assert list(found) == ["random"]  # BOHB was not replayed on b
    assert found["random"].shape == (1, 2, len(BUDGETS), 2)
    assert found["random"][0, 1, 0].tolist() == [1.0, 1.0]
    assert np.isnan(found["random"][0, :, 1]).all()
    with pytest.raises(ValueError, match="no table c"):
        read_record(path, ["a", "c"])


def test_every_recorded_peer_was_seen_at_the_smallest_budget() -> None:
    tables = json.loads(gzip.decompress(RECORD.read_bytes()))["tables"]
    for found in read_record(RECORD, tables).values():
        assert np.isfinite(found[:, :, 0]).all()
        assert (found[:, :, 0, 0] >= 0).all()


def test_lines_that_a_crash_cut_short_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"peer": "BOHB", "table": "t", "seed": 3, "regret": [[0.1, 0.2]]}\n{"peer": "BOHB", "ta')
    assert read_lines(path) == {("BOHB", "t", 3): [[0.1, 0.2]]}


def test_a_table_is_exported_in_unit_coordinates_with_the_seconds_of_the_replay(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    export(TABLE, 3, path)
    found = np.load(path)
    assert found["places"][:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert np.array_equal(found["scores"], TABLE.scores[:, 0], equal_nan=True)
    assert found["seconds"][2] == pytest.approx(
        Replay(Search(RandomSearch(TABLE.space, 0), FIFOScheduler()), TABLE, 2).seconds
    )


def test_a_row_that_is_taken_is_not_taken_again_while_others_are_left(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    export(TABLE, 2, path)
    exported = ExportedTable(path, 1)
    assert [exported.take([0.3]) for _ in range(6)] == [1, 2, 0, 3, 4, 1]
    assert exported.scores[2].tolist() == [0.0, 0.0]  # it diverged


@pytest.mark.parametrize(("epochs", "measured"), [(100, True), (250, True), (1000, False)])
def test_a_search_to_more_epochs_replaces_a_shorter_one(epochs: int, measured: bool) -> None:
    assert is_measured([[0.5, 0.5], [0.4, 0.4], None, None], epochs) is measured
    assert not is_measured(None, epochs)


def test_regrets_of_a_search_that_ended_early_are_empty_at_larger_budgets() -> None:
    found = regrets(TABLE, [(3, 1), (0, 2)] * 60)
    assert found == [[0.0, 0.0], None, None, None]


def rising(rows: int) -> Table:
    """Curves that rise over 50 epochs and keep their order."""
    scores = np.linspace(0.1, 0.9, rows)[:, None, None] * np.linspace(0.5, 1.0, 50)
    return Table(
        name="rising",
        space={"x": Float(0, 1)},
        points=[{"x": row / (rows - 1)} for row in range(rows)],
        scores=scores,
        validation=-scores[:, 0],
        test=-scores[:, 0],
    )


def test_what_a_sampler_of_optuna_proposes_is_trained_under_asha() -> None:
    made = rising(11)
    search = sampled(made, GridSampler({"x": [0.1, 0.4, 0.7, 1.0]}, seed=0))
    rows = {step.trial: step.row for step in islice(Replay(search, made, 0).steps(), 40)}
    assert {rows[trial] for trial in range(4)} == {1, 4, 7, 10}


def test_hyperband_keeps_all_slots_busy_and_ends_what_is_behind() -> None:
    made = rising(200)
    replay = HyperbandReplay(hyperband(made, 0), made, 0)
    steps = list(islice(replay.steps(), 1500))
    assert len(steps) == 1500
    last = {step.trial: step for step in steps}
    ended = Counter(step.epoch for step in last.values())
    assert ended[50] >= 5  # the bracket that trains all of its trials to the end
    assert ended[16] >= 5  # of eight trials the next one keeps three, until 48
    survivors = [step.row for step in last.values() if step.epoch == 48]
    behind = [step.row for step in last.values() if step.epoch == 16]
    assert len(survivors) >= 3
    assert np.mean(survivors) > np.mean(behind)
