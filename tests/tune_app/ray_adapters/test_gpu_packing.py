"""Which of two logical cards Ray gives to trials of half a card, with a real Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import PATIENCE_S, TINY, Place

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP = (
    *(word for word in TINY if not word.startswith("resources.")),
    "family=static",
    "search=random",
    "search.baseline=false",
    "scheduler.name=none",
    "trainer.epochs=1",
    "resources.num_cpus=4",
    "resources.num_gpus=2",
    "resources.cpus_per_trial=1",
    "resources.gpus_per_trial=0.5",
)


@pytest.mark.parametrize(("trials", "cards"), [(4, "0011"), (2, "01")])
def test_half_cards_fill_the_first_card_unless_there_are_cards_for_all(place: Place, trials: int, cards: str) -> None:
    told = place.folder / f"cards{trials}"
    told.mkdir()
    words = [*SWEEP, f"search.num_samples={trials}", f"name=packed{trials}"]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "packed_trials.py"), str(told), str(trials), *words],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pairs = sorted(path.read_text().split() for path in told.iterdir())
    assert all(given == visible for given, visible in pairs)
    assert "".join(given for given, _ in pairs) == cards
