"""No healthy training is stopped, whatever its loss and its weights; one that diverges is, within two epochs.

`python -m benchmarks.diagnosed` shows it at length, on the phantom too: docs/diagnoses.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.diagnosed import (
    DATA,
    DICE,
    RARER,
    SHARES,
    TRAINER,
    Training,
    drawn,
    rises_with_its_weights,
    stopped_at,
    train,
    trainings,
    unlike_shapes,
)
from benchmarks.record_curves import HARDWARE
from search_spaces import together_in_all
from trainables.engine import Engine
from trainables.settings import ModelSettings, TrialSettings
from tune_app.results.diagnosis import diagnose
from tune_app.settings.schema import DiagnosisSettings

DEFAULTS = DiagnosisSettings()
TINY = replace(TRAINER, epochs=3, iterations_per_epoch=4, batch_size=4, validation_batches=2, lr=3e-2)
SMALL = replace(DATA, patch=[1, 16, 16], rotate_degrees=0.0)
LAYOUTS = {
    "as the phantom": (SHARES, [(2, 32, 32)] * 8),
    "crops of unlike sizes": (SHARES, unlike_shapes()),
    "30 times rarer": (RARER, unlike_shapes()),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def engine(request: pytest.FixtureRequest) -> Engine:
    dataset = drawn(SMALL, *LAYOUTS[request.param])
    settings = TrialSettings(data=SMALL, model=ModelSettings(width=4, depth=1), trainer=TINY, hardware=HARDWARE)
    return Engine(settings, {"name": "tversky", "params": {"fp_weight": 0.6, "fn_weight": 0.4}}, 0, dataset=dataset)


def test_no_healthy_training_is_stopped(engine: Engine, request: pytest.FixtureRequest) -> None:
    """The first update of the weights lies inside the first epoch, at its end or after it: one each per data set."""
    by_label: dict[str, list[Training]] = {}
    for training in trainings(engine.dataset, TINY):
        if training.factor == 1:
            by_label.setdefault(training.label, []).append(training)
    turn = list(LAYOUTS).index(request.node.callspec.params["engine"])
    chosen = [same[(number + turn) % len(same)] for number, same in enumerate(by_label.values())]
    assert {training.loss["name"] for training in chosen} == set(together_in_all())
    rows = {training.label: list(train(engine, training, TINY)) for training in chosen}
    assert {
        label: found for label in rows if (found := diagnose(rows[label], DEFAULTS, DICE, epochs=TINY.epochs))
    } == {}
    assert any(map(rises_with_its_weights, rows.values())), "what the weighted loss does says nothing"


@pytest.mark.parametrize(
    ("name", "params"), [("balanced_softmax", {"tau": 2.0, "apply_at": "train"}), ("seesaw", {"p": 2.0, "q": 2.0})]
)
def test_nor_is_one_whose_weights_change_when_it_has_learnt(engine: Engine, name: str, params: dict) -> None:
    """A shift of the logits is in the loss of every class."""
    trainer = replace(TINY, epochs=6)
    late = Training(label=name, loss={"name": name, "params": params}, update=3 * trainer.iterations_per_epoch)
    assert stopped_at(list(train(engine, late, trainer))) == 0


@pytest.mark.parametrize(("after", "label"), [(0, "weight_uniform"), (2, "seesaw_default")])
def test_a_thousand_times_the_learning_rate_is_stopped_within_two_epochs(engine, after: int, label: str) -> None:
    trainer = replace(TINY, epochs=after + 2, iterations_per_epoch=12)
    training = next(t for t in trainings(engine.dataset, trainer) if t.label == label)
    assert stopped_at(list(train(engine, replace(training, factor=1000.0, after=after), trainer))) > after
