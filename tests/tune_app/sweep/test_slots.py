"""How many trials a search may have at once where nodes come and go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from tune_app.ray_adapters.session import TrialResources
from tune_app.sweep import slots
from tune_app.sweep.slots import FreeSlots

HALF_A_CARD = TrialResources(cpus=4, gpus=0.5, slots=4)


class Cluster:
    """What is free on a cluster, and what a search is allowed to take of it."""

    def __init__(self) -> None:
        self.free, self.nodes, self.allowed = 4, 2, 0

    def allow(self, number: int | None) -> None:
        self.allowed = number


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()
    monkeypatch.setattr(slots, "free_slots", lambda resources: (found.free, found.nodes))
    monkeypatch.setattr(slots, "LOOK_EVERY_S", 0)
    return found


def trials(running: int, pending: int = 0) -> list:
    return [SimpleNamespace(status=s) for s in [Trial.RUNNING] * running + [Trial.PENDING] * pending]


def test_all_trials_that_find_room_begin_at_once_and_one_waits_when_all_is_taken(cluster):
    search = FreeSlots(HALF_A_CARD, cluster.allow)
    assert cluster.allowed == 4
    cluster.free = 0
    search.on_step_end(1, trials(1, 3))
    assert cluster.allowed == 4, "those that are still starting have their places"
    search.on_step_end(2, trials(4))
    assert cluster.allowed == 5
    search.on_step_end(3, trials(3, 1))
    assert cluster.allowed == 5, "one was handed the process of another"


def test_a_search_takes_what_others_let_go_and_what_nodes_bring(cluster):
    cluster.free = 0
    search = FreeSlots(HALF_A_CARD, cluster.allow)
    assert cluster.allowed == 1, "it waits, and says so"
    cluster.free = 2
    search.on_step_end(1, trials(0, 1))
    assert cluster.allowed == 2
    cluster.free, cluster.nodes = 4, 3
    search.on_step_end(2, trials(2))
    assert cluster.allowed == 6


def test_a_node_that_is_lost_takes_its_places_with_it(cluster):
    search = FreeSlots(HALF_A_CARD, cluster.allow)
    cluster.free, cluster.nodes = 0, 1
    search.on_step_end(1, trials(2, 2))
    assert cluster.allowed == 3


def test_a_person_may_allow_less(cluster):
    FreeSlots(HALF_A_CARD, cluster.allow, most=3)
    assert cluster.allowed == 3


def test_it_looks_only_now_and_then(cluster, monkeypatch):
    monkeypatch.setattr(slots, "LOOK_EVERY_S", 3600)
    search = FreeSlots(HALF_A_CARD, cluster.allow)
    cluster.free = 9
    search.on_step_end(1, trials(4))
    assert cluster.allowed == 4
