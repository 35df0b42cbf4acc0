"""How fast an epoch is, from the rows of earlier sweeps, and which of them count."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from planned import settings_of
from sweep_folder import WrittenTrial, write_sweep

from trainables.settings import trial_settings
from tune_app.planning.epochs import Range
from tune_app.planning.measure import worker_config
from tune_app.planning.pace import DEFAULT_START_S, Pace, earlier_pace, remember
from tune_app.ray_adapters.session import TrialResources
from tune_app.settings.schema import Settings

RESOURCES = TrialResources(cpus=1, gpus=0.0, slots=2)
CREATED = 1_714_557_600.0  # 2024-05-01T10:00:00+00:00


def earlier(
    results: Path, settings: Settings, name: str = "a", *, load: float = 1.0, created: str = "", host: str = ""
) -> Path:
    """A sweep of these settings: two trials at once, four epochs each of 1 + 3 + 2 s, one second between epochs."""
    trials = [WrittenTrial(label=label, dice=[(0.1, 0.2)] * 4) for label in ("x", "y")]
    folder = write_sweep(results / name, trials, created=created or "2024-05-01T10:00:00+00:00")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings.as_dict()))
    edit(folder / "manifest.json", hardware={"host": host or platform.node()})
    for trial in (folder / "trials").iterdir():
        sections = {name: dataclasses.asdict(getattr(settings, name)) for name in ("model", "trainer")}
        edit(trial / "config.json", resources=RESOURCES.as_dict(), **sections)
        rows = [json.loads(line) for line in (trial / "history.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            began = CREATED + 20 + 7 * number
            row |= {
                "seconds_load": load,
                "seconds_compute": 3.0,
                "seconds_validate": 2.0,
                "time_started": began,
                "time_ended": began + 6,
            }
        (trial / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = settings_of("family=seesaw")
    data = dataclasses.replace(found.data, cache_dir=str(tmp_path / "cache"))
    return dataclasses.replace(found, results_dir=str(tmp_path), data=data)


MEASURED = Pace(
    training_batch=Range(0.5, 0.4, 0.6), validation_batch=Range(0.2, 0.1, 0.3), source="measured now, alone", start=3.0
)


def test_a_measurement_is_remembered_for_its_shape_and_machine(settings: Settings) -> None:
    assert earlier_pace(settings, RESOURCES) is None
    remember(MEASURED, settings, RESOURCES)
    found = earlier_pace(settings, RESOURCES)
    assert found is not None
    assert re.fullmatch(r"measured on \d{4}-\d\d-\d\d at \d\d:\d\d, alone", found.source)
    assert (found.training_batch, found.validation_batch, found.start) == (
        MEASURED.training_batch,
        MEASURED.validation_batch,
        3.0,
    )
    longer = dataclasses.replace(settings, trainer=dataclasses.replace(settings.trainer, epochs=50, lr=0.5))
    assert earlier_pace(longer, RESOURCES).training_batch == MEASURED.training_batch
    wider = dataclasses.replace(settings, model=dataclasses.replace(settings.model, width=32))
    assert earlier_pace(wider, RESOURCES) is None
    assert earlier_pace(settings, dataclasses.replace(RESOURCES, slots=3)) is None


def test_the_newer_of_sweep_and_measurement_counts(tmp_path: Path, settings: Settings) -> None:
    earlier(tmp_path, settings, "old")
    remember(MEASURED, settings, RESOURCES)
    assert earlier_pace(settings, RESOURCES).source.startswith("measured on")
    earlier(tmp_path, settings, "new", created="2999-05-01T10:00:00+00:00")
    assert earlier_pace(settings, RESOURCES).source.startswith("sweep new")


def test_trials_whose_point_changed_the_batch_are_of_another_shape(tmp_path: Path, settings: Settings) -> None:
    folder = earlier(tmp_path, settings)
    assert earlier_pace(settings, RESOURCES) is not None
    trainer = dataclasses.asdict(settings.trainer)
    for trial in (folder / "trials").iterdir():
        edit(trial / "config.json", trainer=trainer | {"batch_size": 3 * trainer["batch_size"]})
    assert earlier_pace(settings, RESOURCES) is None


def test_a_damaged_measurement_is_none(tmp_path: Path, settings: Settings) -> None:
    remember(MEASURED, settings, RESOURCES)
    (path,) = (tmp_path / "cache" / "paces").iterdir()
    path.write_text(path.read_text()[:-20])
    assert earlier_pace(settings, RESOURCES) is None


def test_steps_batches_and_gaps_are_taken_from_the_rows(tmp_path: Path, settings: Settings) -> None:
    earlier(tmp_path, settings)
    pace = earlier_pace(settings, RESOURCES)
    assert pace is not None
    assert pace.training_batch.expected == pytest.approx(4 / settings.trainer.iterations_per_epoch)
    assert pace.validation_batch.expected == pytest.approx(2 / settings.trainer.validation_batches)
    assert (pace.start, pace.per_epoch) == (pytest.approx(20), pytest.approx(1))
    assert pace.epoch(settings).expected == pytest.approx(4 + 2 + 1)
    assert "sweep a, 8 epochs" in pace.source


def test_a_wait_for_a_place_is_no_part_of_an_epoch(tmp_path: Path, settings: Settings) -> None:
    folder = earlier(tmp_path, settings)
    for path in folder.glob("trials/*/history.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[2:]:
            row |= {name: row[name] + 50 for name in ("time_started", "time_ended")}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pace = earlier_pace(settings, RESOURCES)
    assert pace is not None
    assert pace.per_epoch == pytest.approx(1)


def test_a_longer_epoch_takes_longer_in_proportion(tmp_path: Path, settings: Settings) -> None:
    earlier(tmp_path, settings)
    trainer = dataclasses.replace(settings.trainer, iterations_per_epoch=60, validation_batches=12, epochs=50)
    longer = dataclasses.replace(settings, trainer=trainer)
    pace = earlier_pace(longer, RESOURCES)
    assert pace is not None
    assert pace.epoch(longer).expected == pytest.approx(3 * 4 + 2 * 2 + 1)


def with_trainer(settings: Settings, **more: Any) -> Settings:
    return dataclasses.replace(settings, trainer=dataclasses.replace(settings.trainer, **more))


def test_batches_that_are_added_up_to_a_step_take_their_time(tmp_path: Path, settings: Settings) -> None:
    """trainer.accumulate multiplies the passes of an epoch: the plan counts them, from a sweep with them or without."""
    tripled = with_trainer(settings, accumulate=3)
    earlier(tmp_path, settings)
    plain = earlier_pace(tripled, RESOURCES)
    assert plain is not None
    assert plain.epoch(tripled).expected == pytest.approx(3 * 4 + 2 + 1)
    earlier(tmp_path, tripled, "tripled", created="2024-06-01T10:00:00+00:00")
    found = earlier_pace(settings, RESOURCES)
    assert found is not None
    assert "sweep tripled" in found.source
    assert found.epoch(settings).expected == pytest.approx(4 / 3 + 2 + 1)


@pytest.mark.parametrize(("norm", "again"), [("batch", 1.0), ("instance", 0.0)])
def test_averaged_weights_need_their_batch_norm_anew(settings: Settings, norm: str, again: float) -> None:
    """From epoch 7 of 9 on: a third of the epochs has one more pass forward over its batches."""
    averaged = with_trainer(settings, epochs=9, iterations_per_epoch=30, accumulate=2, validation_batches=4, swa_from=7)
    averaged = dataclasses.replace(averaged, model=dataclasses.replace(averaged.model, options={"norm": norm}))
    found = MEASURED.epoch(averaged)
    assert found.expected == pytest.approx(60 * 0.5 + (4 + again * 60 / 3) * 0.2)


def test_a_pace_is_that_of_the_epochs_before_weights_were_averaged(tmp_path: Path, settings: Settings) -> None:
    folder = earlier(tmp_path, with_trainer(settings, swa_from=3))
    for path in folder.glob("trials/*/history.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | {"seconds_compute": 5.0} if row["epoch"] >= 3 else row for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pace = earlier_pace(settings, RESOURCES)
    assert pace is not None
    assert pace.training_batch.expected == pytest.approx(4 / settings.trainer.iterations_per_epoch)


def test_a_measurement_is_of_single_batches_whatever_the_schedule(settings: Settings) -> None:
    """Its three short epochs hold neither the epoch from which weights are averaged nor so long a warm-up."""
    asked = with_trainer(settings, epochs=60, accumulate=4, swa_from=40, keep_epoch=50, warmup_steps=500)
    told = trial_settings(worker_config(asked, RESOURCES, 0, 0))
    assert (told.trainer.accumulate, told.trainer.swa_from) == (1, 0)


@pytest.mark.parametrize(
    "words",
    [
        ["model.width=16"],
        ["trainer.batch_size=8"],
        ["data.patch=[1,32,32]"],
        ["trainer.compile=true"],
        ["hardware.device=cpu"],
        ["data.classes=[nuc,pm]"],
    ],
)
def test_another_shape_is_no_source(tmp_path: Path, settings: Settings, words: list[str]) -> None:
    earlier(tmp_path, settings)
    other = dataclasses.replace(settings_of("family=seesaw", *words), results_dir=str(tmp_path))
    assert earlier_pace(other, RESOURCES) is None


def test_other_resources_slots_and_machines_are_no_source(tmp_path: Path, settings: Settings) -> None:
    folder = earlier(tmp_path, settings)
    assert earlier_pace(settings, TrialResources(cpus=2, gpus=0.0, slots=2)) is None
    assert earlier_pace(settings, TrialResources(cpus=1, gpus=0.0, slots=1)) is None, "it ran two at once"
    edit(folder / "manifest.json", hardware={"host": "elsewhere"})
    assert earlier_pace(settings, RESOURCES) is None


def test_the_newest_sweep_counts_and_a_damaged_one_is_skipped(tmp_path: Path, settings: Settings) -> None:
    earlier(tmp_path, settings, "old", load=7.0)
    earlier(tmp_path, settings, "new", created="2024-06-01T10:00:00+00:00")
    found = earlier_pace(settings, RESOURCES)
    assert found is not None
    assert "sweep new" in found.source
    for trial in (tmp_path / "new" / "trials").iterdir():
        (trial / "config.json").write_text('{"resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.0}}')
    found = earlier_pace(settings, RESOURCES)
    assert found is not None
    assert "sweep old" in found.source
    (tmp_path / "old" / "sweep.yaml").write_text("[")
    assert earlier_pace(settings, RESOURCES) is None


def test_rows_without_times_still_tell_how_long_steps_take(tmp_path: Path, settings: Settings) -> None:
    folder = earlier(tmp_path, settings)
    for trial in (folder / "trials").iterdir():
        rows = [json.loads(line) for line in (trial / "history.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if not k.startswith("time_")} for row in rows]
        (trial / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    pace = earlier_pace(settings, RESOURCES)
    assert pace is not None
    assert (pace.start, pace.per_epoch) == (DEFAULT_START_S, 0.0)


def test_an_epoch_adds_up(settings: Settings) -> None:
    pace = Pace(training_batch=Range(2, 1, 4), validation_batch=Range(10, 10, 20), source="", per_epoch=0.5)
    trainer = dataclasses.replace(settings.trainer, iterations_per_epoch=3, validation_batches=2)
    assert pace.epoch(dataclasses.replace(settings, trainer=trainer)) == Range(26.5, 23.5, 52.5)
