"""What is said to fit onto a card, and the batch that batch=auto takes."""

from __future__ import annotations

import pytest
from planned import settings_of

from trainables.errors import SettingsError
from tune_app.settings.fitting import fitted, of_trial, refuse_too_large, room_gb, shortages, step_gb
from tune_app.settings.schema import Settings

SMALL = ("family=seesaw", "hardware=rtx3090", "trainer.batch_size=24", "trainer.accumulate=2")


def of_card(gigabytes: float, *overrides: str) -> Settings:
    return settings_of(*SMALL, f"hardware.device_memory_gb={gigabytes}", *overrides)


def test_a_trial_has_the_usable_part_of_its_share() -> None:
    assert room_gb(settings_of(*SMALL)) == pytest.approx(0.9 * 24.6 / 2)
    assert room_gb(of_card(48)) == pytest.approx(0.9 * 24)
    assert room_gb(of_card(48, "resources.gpus_per_trial=2")) == pytest.approx(0.9 * 48)
    assert room_gb(of_card(48, "hardware.memory_fraction=0.25")) == pytest.approx(0.9 * 12)
    assert room_gb(settings_of("family=seesaw", "hardware=cpu", "hardware.device_memory_gb=1000")) > 0


def test_the_batch_is_the_largest_that_fits_of_those_that_divide_a_step() -> None:
    whole = step_gb(of_card(100), 48)
    for share, batch in ((1.01, 48), (0.99, 24), (0.3, 12), (1e-6, 1)):
        own = fitted(of_card(whole * share / 0.9 * 2))
        assert (own.trainer.batch_size, own.trainer.accumulate) == (batch, 48 // batch)
        patches = 24 * own.trainer.validation_batches * batch
        given = of_card(100).trainer
        assert patches == 24 * given.batch_size * given.validation_batches


def test_several_workers_share_the_batch() -> None:
    settings = of_card(100, "resources.gpus_per_trial=4")
    tight = of_card(step_gb(settings, 6) * 1.01 / 0.9, "resources.gpus_per_trial=4")
    assert fitted(tight).trainer.batch_size == 24
    with pytest.raises(SettingsError, match=r"trainer\.batch_size=25: each of the trial's 4 workers"):
        fitted(of_card(100, "resources.gpus_per_trial=4", "trainer.batch_size=25", "trainer.accumulate=1"))


def test_each_trial_has_the_batch_that_its_network_allows() -> None:
    settings = of_card(20 * step_gb(of_card(100), 48), "batch=auto")
    small, large = (of_trial(settings, {"model": {"width": width}}).trainer for width in (8, 256))
    assert small.batch_size == 48
    assert large.batch_size < 48
    assert large.batch_size * large.accumulate == 48


def test_an_unknown_card_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    settings = settings_of("family=seesaw", "resources.gpus_per_trial=1")
    with pytest.raises(SettingsError, match=r"batch=auto: .*hardware\.device_memory_gb=24"):
        fitted(settings)
    assert list(shortages([settings])) == []
    refuse_too_large(settings)


def test_what_does_not_fit_is_said_once_and_what_never_will_is_refused() -> None:
    one, whole = (step_gb(of_card(100), patches) for patches in (1, 24))
    short = of_card((one + whole) / 2 / 0.9 * 2)
    (said,) = shortages([short, short])
    assert "with 24 patches at once needs about" in said
    assert "batch=auto" in said
    refuse_too_large(short)
    assert list(shortages([of_card(whole * 1.01 / 0.9 * 2)])) == []
    (said,) = shortages([of_card(one / 2, "trainer.batch_size=1")])
    assert "a single patch at once needs" in said
    assert "batch=auto" not in said
    with pytest.raises(SettingsError, match=r"data\.patch=.* single patch needs about .*model\.checkpointing=true"):
        refuse_too_large(of_card(one / 3))
