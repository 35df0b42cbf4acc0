"""A sweep that begins where an earlier one ended, with a real Ray: said, kept, and resumed without the earlier one."""

from __future__ import annotations

import json
import shutil

import pytest
from sweeps import TINY, Place, exactly_once, killed, reported, trials_of

from tune_app.results.sweep import Sweep
from tune_app.search.guard import BOX, ORIGIN, PRIOR, WHOLE
from tune_app.settings.stored import stored_settings

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

ONE_SLOT = (*TINY, "family=seesaw", "search.presets_first=false", "resources.max_concurrent=1", "trainer.epochs=2")
WARM = (*ONE_SLOT, "search.num_samples=6", "space.from=first", "space.best=2", "search.prior=p=0.5", "seed=1")


@pytest.fixture(scope="module")
def first(place: Place) -> Sweep:
    place.run("run", *ONE_SLOT, "search.num_samples=4", "name=first")
    return Sweep(place.sweep("first"))


def test_a_sweep_begins_where_an_earlier_one_ended(place: Place, first: Sweep) -> None:
    printed = place.run("plan", *WARM, "format=json")
    planned = json.loads(printed[printed.index('{\n  "schema"') :])
    output = place.run("run", *WARM, "name=second")
    board = first.leaderboard()
    named = [first.trial(name).params for name in board["name"]]
    points = [params for params in named if params][:2]
    box = stored_settings(place.sweep("second")).warm.box
    for name in ("p", "q"):
        values = [point[name] for point in points]
        assert box[name] == [min(values), max(values)]
    assert "the smallest box round the best 2 of the 3 trials of first" in " ".join(output.split())
    assert "round p=0.5" in " ".join(output.split())
    assert len(planned["warm_start"]) == 2
    trials = trials_of(place.sweep("second"))
    assert ORIGIN not in trials[0].user_attrs, "the untuned baseline comes first, as ever"
    assert {trial.user_attrs[ORIGIN] for trial in trials[1:]} <= {BOX, PRIOR, WHOLE}
    told = Sweep(place.sweep("second")).leaderboard().sort_values("number")["origin"].tolist()
    assert told == [trial.user_attrs.get(ORIGIN, "") for trial in trials]
    for trial in trials[1:]:
        if trial.user_attrs[ORIGIN] == BOX:
            assert all(low <= trial.params[name] <= high for name, (low, high) in box.items())


@pytest.mark.slow
def test_a_killed_one_goes_on_as_it_would_have_without_the_earlier_one(place: Place, first: Sweep) -> None:
    second, third = place.sweep("second"), place.sweep("third")
    if not second.is_dir():
        place.run("run", *WARM, "name=second")
    run = place.start("run", *WARM, "name=third")
    run.until(lambda: reported(third) >= 5)
    killed(run, third)
    (third / "study.journal").unlink()  # made anew from the folders of the trials, which say where each came from
    shutil.move(first.folder, place.folder / "gone")
    place.run("run", "resume=third")
    assert exactly_once(third)
    told = [
        [(trial.params, trial.values, trial.user_attrs.get(ORIGIN)) for trial in trials_of(sweep)]
        for sweep in (second, third)
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 6
