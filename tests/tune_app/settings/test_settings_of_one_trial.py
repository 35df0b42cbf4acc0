"""What the sections of a point do to the settings of its trial."""

from __future__ import annotations

import pytest
from planned import settings_of

from trainables.errors import SettingsError
from tune_app.settings.schema import laid_over

LOSS = {"name": "static", "params": {"weights": [1.0]}}


def test_a_loss_alone_leaves_the_settings_as_they_are() -> None:
    settings = settings_of()
    assert laid_over(settings, {"loss": LOSS}) is settings
    assert laid_over(settings, {"loss": LOSS, "trainer": {}}) is settings


def test_sections_lie_over_the_sweeps_and_leave_the_rest() -> None:
    settings = settings_of("model.depth=2")
    own = laid_over(settings, {"loss": LOSS, "model": {"width": 8}, "resources": {"cpus_per_trial": 2}})
    assert (own.model.width, own.model.depth, own.resources.cpus_per_trial) == (8, 2, 2)
    assert own.trainer == settings.trainer


@pytest.mark.parametrize(("batch_size", "batches"), [(12, 10), (24, 5), (48, 3), (7, 18), (1000, 1)])
def test_every_trial_is_validated_on_as_many_patches(batch_size: int, batches: int) -> None:
    settings = settings_of("trainer.batch_size=24", "trainer.validation_batches=5")
    own = laid_over(settings, {"trainer": {"batch_size": batch_size}})
    assert own.trainer.validation_batches == batches
    assert laid_over(settings, {"trainer": {"batch_size": 8, "validation_batches": 2}}).trainer.validation_batches == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainer": {"epochs": 3}}, r"trainer\.epochs=3: a family cannot set it for single trials.*Choices: .*lr"),
        ({"data": {"classes": ["a"]}}, r"data\.classes=.*cannot set it.*mirror"),
        ({"hardware": {"device": "cpu"}}, r"section=hardware: a family gives no such section.*model, trainer"),
        ({"trainer": {"lr": -1.0}}, r"trainer\.lr=-1\.0: must be above 0"),
        ({"model": {"depht": 3}}, r"model\.depht=3"),
        ({"resources": {"gpus_per_trial": 2.5}}, r"resources\.gpus_per_trial=2\.5: a fraction in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(sections: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        laid_over(settings_of(), sections)
