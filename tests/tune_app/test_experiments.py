"""Each experiment on generated data in tiny, as a person types it, with a real Ray.

run (killed) → resume → confirm → export → trial → show → predict → compare → report. What is read is the order, not how
good anything is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import zarr
from sweeps import Place, ended_and_begun, histories, killed, untouched

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS = 4
TINY = (f"trainer.epochs={EPOCHS}", "trainer.validation_batches=2", "resources.num_cpus=2", "cluster.dashboard=false")
"""Epochs that last long enough to be killed in."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """words: what makes it tiny. crop, out: what is predicted, and where."""

    words: tuple[str, ...]
    metric: str
    crop: str
    out: str = "pred.zarr"


EXPERIMENTS = {
    "wildfire": Experiment(words=("trainer.iterations_per_epoch=6",), metric="f1", crop="fire00"),
    "oct": Experiment(
        words=("trainer.iterations_per_epoch=12", "trainer.warmup_steps=8"),
        metric="balanced_accuracy",
        crop="all",
        out="pred.csv",
    ),
    "surface": Experiment(words=("trainer.iterations_per_epoch=6",), metric="calibrated_f1", crop="sheets00"),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_way_of_an_experiment(place: Place, name: str) -> None:
    experiment, sweep = EXPERIMENTS[name], place.sweep(name)
    words = (f"experiment={name}", *TINY, *experiment.words, "search.num_samples=3", "scheduler.name=none")
    run = place.start("run", *words, f"name={name}")
    run.until(lambda: ended_and_begun(sweep, epochs=EPOCHS, ended=1))
    before = killed(run, sweep)
    assert "PHANTOM DATA" in place.run("run", f"resume={name}")
    assert untouched(before, sweep)
    found = Sweep(sweep)
    assert found.metric == experiment.metric
    assert [trial.epochs for trial in found.trials] == [EPOCHS] * 3
    assert sum(trial.baseline for trial in found.trials) == 1

    place.run("confirm", f"sweep={name}", "top=1", "replicates=2")
    assert json.loads((sweep / "confirmation.json").read_text())["arms"]
    best = place.folder / f"best_{name}"
    place.run("export", f"sweep={name}", "top=3", f"out={best}")
    of = {json.loads((folder / "manifest.json").read_text())["trial"]: folder for folder in best.iterdir()}
    interrupted = next(trial for trial, state in before.states.items() if state == "RUNNING")
    place.run("run", f"trial={of[interrupted]}/config.yaml", f"name={name}_again", "cluster.dashboard=false")
    (again,) = histories(place.sweep(f"{name}_again")).values()
    assert again == histories(sweep)[interrupted], "killed, resumed and exported, it is what it would have been"

    assert experiment.metric.replace("_", " ") in place.run("show", f"checkpoint={best}/1")
    out = place.folder / f"{name}_{experiment.out}"
    place.run("predict", f"checkpoint={best}/1", f"crop={experiment.crop}", f"out={out}")
    if out.suffix == ".csv":
        assert len(out.read_text().splitlines()) > 100
    else:
        (masks,) = (out / "labels").glob("*/s0")
        assert set(zarr.open_array(masks, mode="r")[:].ravel().tolist()) <= {0, 1}
    assert "b − a" in place.run("compare", f"a={best}/1", f"b={best}/2", f"out=compared_{name}.html")
    place.run("report", f"sweep={name}", f"out=report_{name}.html")
