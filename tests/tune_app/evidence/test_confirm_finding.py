"""The whole finding: what it says of good input, of the published table, and of input that allows no answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tune_app.errors import InputError
from tune_app.evidence import Confirmation, Replicates, confirm_statistics, equal_arms
from tune_app.results.reference import read_reference

CLASSES = ["nuc", "mito_mem", "er_mem", "pm", "golgi_mem"]
UNIFORM = {"weight_uniform", "weight_effective_num", "cb_beta_0.99", "cb_beta_0.999", "cb_beta_0.9999"}
"""Five of the published runs are this one configuration."""


def scores(means: list[float], seeds: int = 5, seed: int = 0, sd: float = 0.0127) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array(means)[:, None] + random.normal(0, sd, (len(means), seeds)) + random.normal(0, sd, seeds)


def find(table: np.ndarray, **known: Any) -> Confirmation:
    return confirm_statistics(Replicates(arms=list("abcdefgh"[: len(table)]), scores=table, **known))


CLEAR = [0.58, 0.5, 0.5, 0.5]


def test_a_clear_winner_is_named_and_chosen():
    found = find(scores(CLEAR), baseline="d")
    assert found.statement == "a is the best of 4 arms."
    assert (found.winner, found.equivalence_set, found.default_choice) == ("a", ["a"], "a")
    assert found.reasons == []
    first = found.arms[0]
    assert first.p_best > 0.99
    assert first.difference_to_best_low >= 0
    assert first.difference_to_baseline_low > 0.05
    assert first.baseline_p_holm < 0.001
    assert np.isnan(found.arms[3].difference_to_baseline)
    assert found.duel is not None
    assert found.duel.difference > found.duel.needed


def test_equal_arms_have_no_winner_and_the_untuned_one_is_the_choice():
    found = find(scores([0.5] * 4), baseline="d", costs=[3, 1, 2, 4])
    assert found.winner is None
    assert set(found.equivalence_set) == set("abcd")
    assert "cannot be told apart" in found.statement
    assert (found.default_choice, found.default_reason.split(",")[0]) == ("d", "nothing tuned was told from it")
    assert "would be needed" in found.reasons[0]
    assert "paired replicates" in found.reasons[0]


def test_of_a_tie_without_the_baseline_the_simplest_then_the_cheapest_is_the_choice():
    table = scores([0.6, 0.6, 0.6, 0.4])
    assert find(table, baseline="d", costs=[3, 1, 2, 4]).default_choice == "b"
    assert find(table, baseline="d", costs=[3, 1, 2, 4], simplicity=[1, 2, 1.5, 0]).default_choice == "a"
    leading = find(table, baseline="d")
    assert leading.default_choice == leading.leader
    assert "highest mean" in leading.default_reason


def test_winners_curse_is_search_score_minus_confirmed_mean():
    found = find(scores(CLEAR), search_scores=[0.61, 0.55, None, None])
    assert found.arms[0].winners_curse == pytest.approx(0.61 - found.arms[0].mean)
    assert np.isnan(found.arms[2].winners_curse)


def published(**known: Any) -> Confirmation:
    table: pd.DataFrame = read_reference("published", CLASSES, "mean_dice")
    return confirm_statistics(
        Replicates(
            arms=table["name"].tolist(),
            scores=table["mean_dice"].to_numpy()[:, None],
            baseline="weight_uniform",
            classes=CLASSES,
            class_scores=table[[f"dice/{c}" for c in CLASSES]].to_numpy()[:, None],
            **known,
        )
    )


@pytest.mark.parametrize("paired", [True, False])
def test_the_published_table_alone_has_no_winner(paired):
    found = published(paired=paired)
    assert found.winner is None
    assert len(found.equivalence_set) == 15
    assert found.reasons == ["No arm has a second replicate, so the noise is unknown: any difference may be chance."]
    assert np.isnan([arm.low for arm in found.arms]).all()


def test_the_published_table_has_no_winner_though_five_runs_tell_the_noise():
    names = read_reference("published", CLASSES, "mean_dice")["name"]
    found = published(paired=False, signatures=["uniform" if name in UNIFORM else name for name in names])
    assert len(found.arms) == 11
    uniform = next(arm for arm in found.arms if arm.name == "weight_uniform")
    assert set(uniform.members) == UNIFORM
    assert (uniform.replicates, round(uniform.mean, 4), round(uniform.sd, 4)) == (5, 0.5361, 0.0127)
    assert (found.noise.dof, round(found.noise.sd, 4)) == (4, 0.0127)
    assert found.winner is None
    assert len(found.equivalence_set) == 11
    assert found.default_choice == "weight_uniform"
    assert found.duel is not None
    assert 0.045 < found.duel.needed < 0.055


def test_a_single_run_is_never_a_winner_however_far_ahead():
    table = np.full((3, 5), np.nan)
    table[0, 0] = 0.9
    table[1:] = scores([0.5, 0.49])
    for paired in (True, False):
        found = find(table, paired=paired)
        assert found.winner is None
        assert any("one replicate only" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.array([[0.5], [0.6], [0.7]]), "No arm has a second replicate"),
        (np.array([[0.5, 0.6, 0.7]]), "only one arm with a score"),
        (np.array([[0.5, 0.6, 0.7], [np.nan] * 3]), "only one arm with a score"),
        (np.array([[0.5, 0.5], [0.6, 0.6]]), "do not vary at all"),
        (np.array([[0.5, 0.6], [0.51, 0.61]]), "do not vary at all"),
        (np.array([[0.5, 0.5], [0.5, 0.5]]), "do not vary at all"),
        (np.array([[0.5, 0.52, np.nan, np.nan], [np.nan, np.nan, 0.9, 0.91]]), "share seeds"),
    ],
)
def test_input_that_allows_no_answer_is_answered_with_the_reason(table, reason):
    found = find(table, costs=[1.0] * len(table), baseline="a")
    assert found.winner is None
    assert reason in found.reasons[0]
    assert found.statement.startswith("No winner:")
    assert found.default_choice == "a"
    json.loads(found.to_json())


def test_missing_and_failed_runs_are_told():
    table = scores([0.6, 0.5, 0.5])
    table[1, 2] = table[2, 0] = np.nan
    attempted = np.isfinite(table)
    attempted[1, 2] = True
    found = find(table, attempted=attempted)
    assert [arm.replicates for arm in found.arms] == [5, 4, 4]
    assert [arm.failed for arm in found.arms] == [0, 1, 0]
    assert any("failed or were hopeless: b (1)" in caution for caution in found.cautions)
    assert found.winner == "a"


def test_unequal_noise_is_told():
    random = np.random.default_rng(2)
    table = 0.5 + random.normal(0, 0.005, (4, 6)) * np.array([1, 1, 12, 1])[:, None]
    found = find(table)
    assert found.noise.noisiest == "c"
    assert any("times as noisy" in caution for caution in found.cautions)


def test_a_winner_that_rests_on_pooled_noise_is_marked():
    found = find(scores([0.525, 0.5, 0.5, 0.5, 0.5], seed=31))
    assert found.winner == "a"
    assert found.duel is not None
    marked = [caution for caution in found.cautions if "rests on one noise for all arms" in caution]
    assert found.duel.p_own_noise > 0.05
    assert "twelve" in marked[0]


def test_arms_of_one_configuration_are_one_arm():
    table = scores([0.5, 0.5, 0.55])
    table[1] = table[0]  # the same training under two names
    found = find(
        table, signatures=["same", "same", "other"], baseline="b", costs=[2, 4, 1], search_scores=[0.5, 0.6, 0.7]
    )
    assert [arm.name for arm in found.arms] == ["b", "c"]
    assert found.arms[0].members == ["a", "b"]
    assert found.arms[0].replicates == 5, "copies are no replicates"
    assert (found.arms[0].cost, found.arms[0].search_score) == (3, 0.6)
    alone = find(table[1:], baseline="a")
    assert found.noise.sd == pytest.approx(alone.noise.sd)
    assert equal_arms(["x", "y", "x"]) == [[0, 2], [1]]


def test_the_finding_is_strict_json():
    found = find(scores(CLEAR), baseline="d", classes=["nuc"], class_scores=scores(CLEAR)[:, :, None])
    read = json.loads(found.to_json())
    assert read["winner"] == "a"
    assert read["arms"][0]["search_score"] is None
    assert read["class_differences"][0]["class_name"] == "nuc"
    assert read["format"] == 1


def test_the_same_input_gives_the_same_bytes():
    assert find(scores([0.5] * 4)).to_json() == find(scores([0.5] * 4)).to_json()


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"arms": ["a"], "scores": np.zeros((2, 2))}, "a row for each of 1 arms"),
        ({"arms": ["a", "a"], "scores": np.zeros((2, 2))}, "names must differ"),
        ({"arms": ["a", "b"], "scores": np.zeros((2, 2)), "baseline": "c"}, "choose one of a, b"),
        ({"arms": ["a", "b"], "scores": np.zeros((2, 2)), "costs": [1.0]}, "costs"),
        ({"arms": ["a", "b"], "scores": np.zeros((2, 2)), "class_scores": np.zeros((2, 2, 3))}, "class_scores"),
        ({"arms": ["a", "b"], "scores": np.full((2, 2), np.nan)}, "one run at least"),
    ],
)
def test_what_does_not_fit_together_is_refused(known, message):
    with pytest.raises(InputError, match=message):
        confirm_statistics(Replicates(**known))
