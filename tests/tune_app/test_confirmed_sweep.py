"""A confirmation with a real Ray: killed in the middle, taken up, and equal to runs that were left alone."""

from __future__ import annotations

import pytest
from sweeps import TINY, ended_and_begun, exactly_once, killed, steady, untouched

from tune_app.results import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.mark.slow
def test_a_killed_confirmation_ends_as_one_that_was_left_alone(place):
    """kill -9 in the middle; resumed, it has trained every arm on every seed once, and each as from scratch."""
    words = (*TINY, "family=seesaw", "search.num_samples=3", "scheduler.name=none")
    place.run("run", *words, "name=searched")
    sweep = place.sweep("searched")
    confirmation = sweep / "confirmation"
    arguments = ("sweep=searched", "top=1", "replicates=2")
    run = place.start("confirm", *arguments)
    run.until(lambda: confirmation.is_dir() and ended_and_begun(confirmation, epochs=4, ended=1))
    before = killed(run, confirmation)
    assert not (sweep / "confirmation.json").exists()
    refused = place.run("confirm", *arguments, code=2)
    assert "python -m tune_app.confirm resume=searched" in refused
    assert "tune_app.confirm resume=searched" in place.run("run", f"resume={confirmation}", code=2)
    output = place.run("confirm", "resume=searched")
    assert "arms" in output or "No winner" in output
    assert untouched(before, confirmation)
    assert exactly_once(confirmation)
    runs = Sweep(confirmation).trials
    assert sorted({trial.seed for trial in runs}) == [1, 2]
    assert len(runs) == len({(trial.label, trial.seed) for trial in runs}) == 4
    assert all(trial.status == "finished" and trial.epochs == 4 for trial in runs)
    assert (sweep / "confirmation.json").read_text() == (confirmation / "confirmation.json").read_text()
    again = place.run("confirm", "resume=searched")
    assert "No winner" in again or "is the best of" in again
    alone = ("preset=weight_uniform", "seed=1", "name=alone", "frequencies=" + str(sweep / "class_frequencies.json"))
    place.run("run", *TINY, *alone)
    (single,) = Sweep(place.sweep("alone")).trials
    twin = next(trial for trial in runs if trial.label == "weight_uniform" and trial.seed == 1)
    assert [steady(row) for row in single.history] == [steady(row) for row in twin.history]
    assert "Confirmed on fresh seeds" in place.run("summary", "sweep=searched")
