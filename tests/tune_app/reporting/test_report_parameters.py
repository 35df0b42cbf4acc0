"""Optuna is fed scores of one budget at a time: early stopping distorts neither values nor importance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sweep_folder import WrittenTrial, write_sweep

from tune_app.reporting.findings import Findings, gather
from tune_app.reporting.parameters import (
    ENOUGH,
    parameters,
    scores_at_common_epoch,
    scores_at_full_budget,
    study_of,
    tried,
)
from tune_app.results.sweep import Sweep, read_study

NAN = float("nan")
TRIALS = [
    WrittenTrial(label="good", dice=[(0.3, 0.3), (0.2, 0.2), (0.7, 0.7)], params={"p": 0.1}),
    WrittenTrial(label="late", dice=[(0.1, 0.1), (0.2, 0.2), (0.9, 0.9)], params={"p": 0.2}),
    WrittenTrial(label="stopped", dice=[(0.4, 0.4), (0.1, 0.1)], status="stopped early", params={"p": 0.9}),
    WrittenTrial(label="failed", dice=[(0.9, 0.9), (NAN, NAN)], status="failed: nan", params={"p": 0.5}),
    WrittenTrial(label="listed", dice=[(0.8, 0.8), (0.8, 0.8), (0.8, 0.8)]),
]


def found(folder: Path, trials: list[WrittenTrial]) -> Findings:
    return gather(Sweep(write_sweep(folder, trials)))


def searched(findings: Findings) -> dict:
    return {t.user_attrs["name"]: t for t in read_study(findings.sweep.folder)[0] if t.params}


def test_all_trials_are_compared_within_the_epochs_that_all_of_them_had(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", TRIALS)
    assert findings.common_epoch == 2
    study = study_of(findings, searched(findings), scores_at_common_epoch(findings))
    values = {t.user_attrs["name"]: t.value for t in study.trials}
    assert values == {"0000_good": pytest.approx(0.3), "0001_late": 0.2, "0002_stopped": 0.4}, "the best of two epochs"


def test_only_trials_at_full_budget_have_their_best_epoch_compared(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", TRIALS)
    study = study_of(findings, searched(findings), scores_at_full_budget(findings))
    assert {t.user_attrs["name"]: t.value for t in study.trials} == {"0000_good": 0.7, "0001_late": 0.9}


def test_a_parameter_that_early_stopping_sorts_out_stays_important(tmp_path: Path) -> None:
    """p decides who survives the first rung; among the survivors only the harmless q seems to vary."""
    generator = np.random.default_rng(0)
    trials = []
    for index in range(60):
        p, q = generator.uniform(0, 2, 2)
        score = 0.5 - 0.2 * (p > 1) + 0.001 * q
        stopped = p > 1
        trials.append(
            WrittenTrial(
                label=f"t{index}",
                dice=[(score, score)] * (1 if stopped else 3),
                params={"p": p, "q": q},
                status="stopped early" if stopped else "finished",
                weights=False,
            )
        )
    section = parameters(found(tmp_path / "a", trials))
    importance = next(part for part in section.parts if part.key == "parameters-importance").data
    early = importance[importance["of"].str.startswith("all trials")].set_index("parameter")["importance"]
    assert early["p"] > 0.8
    assert importance.loc[importance["of"].str.startswith("all trials"), "trials"].unique().tolist() == [60]


def test_too_few_trials_have_no_importance_but_slices(tmp_path: Path) -> None:
    trials = [WrittenTrial(label=f"t{i}", dice=[(0.1 * i, 0.2)], params={"p": 0.1 * i}) for i in range(ENOUGH - 1)]
    keys = [part.key for part in parameters(found(tmp_path / "a", trials)).parts]
    assert keys == ["parameters-slices-common-0", "parameters-parallel"]


def test_a_parameter_that_hardly_any_trial_has_is_left_out_of_the_importance(tmp_path: Path) -> None:
    trials = [WrittenTrial(label=f"t{i}", dice=[(0.1 * i, 0.2)], params={"p": 0.1 * i}) for i in range(9)]
    trials += [WrittenTrial(label=f"u{i}", dice=[(0.3, 0.2)], params={"q": 0.1 * i}) for i in range(2)]
    findings = found(tmp_path / "a", trials)
    assert tried(study_of(findings, searched(findings), scores_at_common_epoch(findings))) == ["p"]


def test_slices_show_the_numbers_of_the_trials_in_the_sweep(tmp_path: Path) -> None:
    trials = [TRIALS[4], *TRIALS[:3]]
    section = parameters(found(tmp_path / "a", trials))
    drawn = next(part for part in section.parts if part.key == "parameters-slices-common-0").figure
    assert list(drawn.data[0].marker.color) == [1, 2, 3], "trial 0 was not searched"


def test_a_fixed_list_says_that_nothing_was_searched(tmp_path: Path) -> None:
    assert "fixed list" in parameters(found(tmp_path / "a", [TRIALS[4]])).nothing
