"""Memory and disk against counts by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from planned import settings_of

from trainables.data.packing import shaping_settings
from tune_app.planning.epochs import Range
from tune_app.planning.space import (
    DRIVER_GB,
    TYPICAL_CROPS,
    WORKER_GB,
    cache_gb,
    disk_gb,
    log_bytes,
    memory_gb,
    num_parameters,
    packed_cache,
    trial_bytes,
    validation_crops,
)
from tune_app.settings.fitting import step_gb
from tune_app.settings.schema import Settings

PUBLISHED = ("experiment=class_weighting", "data.voxel_nm=[8,8,8]")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = settings_of("family=seesaw")
    return dataclasses.replace(found, data=dataclasses.replace(found.data, cache_dir=str(tmp_path)))


def test_the_published_model_has_its_parameters() -> None:
    assert num_parameters(settings_of(*PUBLISHED)) == 31_036_741


def test_memory_grows_by_trials_and_a_measured_trial_counts(settings: Settings) -> None:
    one, three = (memory_gb(settings, slots, gpu=False) for slots in (1, 3))
    assert one.expected == pytest.approx(DRIVER_GB + WORKER_GB + step_gb(settings))
    assert three.expected == pytest.approx(3 * one.expected - 2 * DRIVER_GB)
    assert memory_gb(settings, 4, gpu=False, measured=2.0).expected == pytest.approx(DRIVER_GB + 8)
    assert one.low < one.expected < one.high


def test_disk_counts_kept_weights_within_their_cap_and_running_checkpoints(settings: Settings) -> None:
    weights = 4 * num_parameters(settings)
    own = trial_bytes(settings, 9.0, 20)
    for trials, kept in ((3, 3), (50, settings.checkpoints.max_number)):
        epochs = Range(9.0 * trials, 9.0 * trials, 9.0 * trials)
        expected = (kept + 2 * 2 * 3) * weights + trials * own + 9 * trials * log_bytes(settings)
        assert disk_gb(settings, trials, epochs, slots=2, crops=20).expected == pytest.approx(expected / 1e9)
    for every, kept in ((3, 3), (1000, 0)):
        keeping = dataclasses.replace(settings.trainer, keep_checkpoint_every=every)
        more = dataclasses.replace(settings, trainer=keeping)
        both = [disk_gb(s, 1, Range(9, 9, 9), slots=1, crops=20).expected for s in (settings, more)]
        assert both[1] - both[0] == pytest.approx(kept * weights / 1e9), "as many as there are in nine epochs"
    capped = dataclasses.replace(settings, checkpoints=dataclasses.replace(settings.checkpoints, max_gb=1e-9))
    less, more = (disk_gb(s, 3, Range(27, 27, 27), slots=2, crops=20).expected for s in (capped, settings))
    assert more - less == pytest.approx(2 * weights / 1e9), "the best one is always kept"


def test_a_packed_cache_of_this_shape_is_found(tmp_path: Path, settings: Settings) -> None:
    assert packed_cache(settings) is None
    assert math.isnan(cache_gb(None))
    assert validation_crops(None) == TYPICAL_CROPS
    folder = tmp_path / "packed" / "abc"
    folder.mkdir(parents=True)
    sides = [{"side": side} for side in ("train", "validate", "validate")]
    index = {"settings": shaping_settings(settings.data), "crops": sides}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "0000.em.npy").write_bytes(bytes(1000))
    assert packed_cache(settings) == folder
    assert cache_gb(folder) == pytest.approx((1000 + (folder / "index.json").stat().st_size) / 1e9)
    assert validation_crops(folder) == 2
    (folder / "index.json").write_text("{")
    assert packed_cache(settings) is None
