"""Resources are checked against nodes before anything waits; the token and the environment. No Ray is started."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from planned import settings_of

from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.ray_adapters import session as ray_session
from tune_app.ray_adapters.session import (
    RaySession,
    TrialResources,
    dashboard_hint,
    free_port,
    spread,
    token_path,
    trial_resources,
    usable_cpus,
)

WORKSTATION = {"CPU": 16.0, "GPU": 2.0}
LAPTOP = {"CPU": 4.0}


@pytest.fixture
def cluster(monkeypatch):
    """Pretends that these nodes are there, and that the autoscaler promises those."""

    def of(*nodes: dict, promised: tuple[dict, ...] = ()) -> None:
        monkeypatch.setattr(ray_session, "_node_resources", lambda: list(nodes))
        monkeypatch.setattr(ray_session, "_autoscaler_nodes", lambda: list(promised))

    return of


@pytest.mark.parametrize(
    ("nodes", "words", "cpus", "gpus", "slots"),
    [
        ([LAPTOP], [], 1, 0, 4),
        ([WORKSTATION], [], 4, 0.5, 4),
        ([WORKSTATION], ["resources.gpus_per_trial=0"], 1, 0, 16),
        ([WORKSTATION], ["resources.gpus_per_trial=1"], 4, 1, 2),
        ([WORKSTATION], ["resources.gpus_per_trial=0.3"], 2, 0.3, 6),
        ([WORKSTATION], ["resources.gpus_per_trial=0.6"], 4, 0.6, 2),
        ([{"CPU": 4.0, "GPU": 2.0}], [], 1, 0.5, 4),
        ([{"CPU": 2.0, "GPU": 4.0}], [], 1, 0.5, 2),
        ([WORKSTATION], ["resources.max_concurrent=3"], 4, 0.5, 3),
        ([WORKSTATION], ["resources.cpus_per_trial=16"], 16, 0.5, 1),
        ([LAPTOP, WORKSTATION, WORKSTATION], [], 4, 0.5, 8),
        ([LAPTOP], ["resources.cpus_per_trial=0.5"], 0.5, 0, 8),
        ([WORKSTATION, WORKSTATION], ["resources.gpus_per_trial=2"], 4, 2, 2),
    ],
)
def test_trials_that_fit(cluster, nodes, words, cpus, gpus, slots):
    cluster(*nodes)
    assert trial_resources(settings_of(*words)) == TrialResources(cpus=cpus, gpus=gpus, slots=slots)


@pytest.mark.parametrize(
    ("nodes", "words", "fragments"),
    [
        ([LAPTOP], ["resources.gpus_per_trial=0.5"], ["gpus_per_trial=0.5", "0 GPUs", "gpus_per_trial=0 uses the CPU"]),
        ([LAPTOP], ["resources.cpus_per_trial=5"], ["cpus_per_trial=5", "4 CPUs"]),
        ([LAPTOP, LAPTOP], ["resources.cpus_per_trial=8"], ["cpus_per_trial=8"]),
        ([WORKSTATION], ["resources.cpus_per_trial=17"], ["16 CPUs", "2 GPUs"]),
        ([LAPTOP, {"CPU": 1.0, "GPU": 1.0}], ["resources.gpus_per_trial=1", "resources.cpus_per_trial=2"], ["1 GPUs"]),
        ([WORKSTATION, WORKSTATION], ["resources.gpus_per_trial=4"], ["4 workers, all on one node", "2 GPUs"]),
        ([LAPTOP], ["resources.workers_per_trial=8"], ["8 workers", "4 CPUs"]),
        ([LAPTOP], ["hardware.device=cuda"], ["hardware.device=cuda", "0 GPUs", "hardware=cpu"]),
    ],
)
def test_trials_that_never_fit_are_an_error_at_once(cluster, nodes, words, fragments):
    cluster(*nodes)
    with pytest.raises(InputError, match=r"Ask for less|Use hardware=cpu") as caught:
        trial_resources(settings_of(*words))
    assert [fragment for fragment in fragments if fragment not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (LAPTOP, ["hardware.precision=fp16"]),
        (WORKSTATION, ["hardware=cpu", "hardware.precision=bf16", "data.patch=[8,64,64]"]),
    ],
)
def test_a_precision_that_cannot_train_on_the_cpu_is_refused_at_once(cluster, node, words):
    cluster(node)
    with pytest.raises(SettingsError, match=r"hardware.precision=.*Choose.*off or auto on the CPU"):
        trial_resources(settings_of(*words))


@pytest.mark.parametrize(("node", "gpus", "slots"), [(LAPTOP, 0, 2), (WORKSTATION, 2, 1)])
def test_workers_have_a_card_each_where_there_are_cards(cluster, node, gpus, slots):
    cluster(node)
    found = trial_resources(settings_of("resources.workers_per_trial=2", "resources.cpus_per_trial=1"))
    assert (found.gpus, found.workers, found.slots) == (gpus, 2, slots)
    assert found.as_dict()["workers_per_trial"] == 2


def test_a_batch_that_workers_cannot_share_is_an_error(cluster):
    cluster(WORKSTATION)
    with pytest.raises(SettingsError, match=r"trainer\.batch_size=15: each of the trial's 2 workers"):
        trial_resources(settings_of("resources.gpus_per_trial=2", "trainer.batch_size=15"))


def test_what_the_autoscaler_may_add_counts(cluster):
    cluster(LAPTOP, promised=(WORKSTATION,))
    words = ["resources.gpus_per_trial=0.5", "resources.cpus_per_trial=4"]
    cluster(LAPTOP, WORKSTATION, promised=(WORKSTATION,))
    assert trial_resources(settings_of(*words), trials=4).gpus == 0.5, "a node that came already is one of the promised"
    cluster(LAPTOP, promised=(WORKSTATION,))
    assert trial_resources(settings_of(*words)).slots == 4
    with pytest.raises(InputError, match="2 GPUs, 16 CPUs"):
        trial_resources(settings_of("resources.gpus_per_trial=0.5", "resources.cpus_per_trial=32"))


@pytest.mark.parametrize(
    ("gpus", "trials", "cards", "expected"),
    [
        (0.5, 2, 2, 1),
        (0.5, 1, 2, 1),
        (0.5, 4, 2, 0.5),
        (0.25, 3, 2, 0.5),
        (0.25, 16, 2, 0.25),
        (0.5, 3, 4, 1),
        (0.3, 12, 4, pytest.approx(1 / 3)),
        (1, 1, 4, 1),
        (0, 1, 2, 0),
        (0.5, 2, 0, 0.5),
    ],
)
def test_few_trials_spread_over_the_cards(gpus, trials, cards, expected):
    assert spread(gpus, trials, cards) == expected


def test_two_half_trials_on_two_cards_take_one_each(cluster):
    cluster(WORKSTATION)
    settings = settings_of("resources.gpus_per_trial=0.5")
    assert trial_resources(settings, trials=2) == TrialResources(cpus=4, gpus=1, slots=2)
    assert trial_resources(settings, trials=4).gpus == 0.5
    assert trial_resources(settings_of("resources.max_concurrent=2"), trials=50).gpus == 1


def test_resources_as_a_trial_is_told():
    told = TrialResources(cpus=2, gpus=0.5, slots=4).as_dict()
    assert told == {"cpus_per_trial": 2, "gpus_per_trial": 0.5}


def test_a_token_is_made_once_and_readable_by_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "deep" / "token"))
    path = token_path()
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_path().read_text() == token


def test_a_folder_for_ray_that_is_given_is_made_for_its_owner_alone(tmp_path):
    folder = ray_session._given_folder(str(Path(tempfile.mkdtemp(dir="/tmp")) / "ray"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    shutil.rmtree(folder.parent)


def test_a_folder_for_ray_that_others_can_enter_or_is_too_deep_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir(mode=0o755)
    for given, why in {
        "/tmp": "other users",
        "open": "chmod 700",
        "d" * 40: "too long",
        "file/ray": "local disk",
    }.items():
        with pytest.raises(ValueError, match=f"cluster.temp_dir=.*{why}"):
            ray_session._given_folder(str(tmp_path / given))


def test_a_start_removes_what_killed_drivers_have_left(tmp_path, monkeypatch):
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def left_by(name: str) -> Path:
        folder = temporary / f"{ray_session.PREFIX}{name}"
        (folder / "ray" / "session_latest").mkdir(parents=True)
        (folder / ray_session.OWNER).touch()
        return folder

    dead, alive, used, stranger, new = map(left_by, ("dead", "alive", "used", "stranger", "new"))
    (stranger / ray_session.OWNER).unlink()
    shutil.rmtree(new / "ray")
    (linked := temporary / f"{ray_session.PREFIX}linked").symlink_to(alive)
    wait = [sys.executable, "-c", "print(flush=True); input()", f"--temp-dir={used}/ray"]
    with (
        subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as raylet,
        FileLock(alive / ray_session.OWNER),
    ):
        assert raylet.stdout
        raylet.stdout.readline()  # while it is being started, its command line may read as empty
        with ray_session._own_folder() as own:
            assert {*temporary.iterdir()} == {alive, used, stranger, new, linked, own}
            assert not ray_session._is_left_over(own)
        assert not own.exists()
        raylet.communicate(b"\n")
        with ray_session._own_folder():
            assert not used.exists()
    assert not dead.exists()
    with contextlib.suppress(ray_session.NotStarted), ray_session._own_folder() as failed:
        (failed / "ray" / "session_latest").mkdir(parents=True)
        raise ray_session.NotStarted
    assert failed.exists(), "the message names it"
    with ray_session._own_folder():
        assert not failed.exists()
    shutil.rmtree(temporary)


def test_the_environment_of_the_person_wins(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    saved = dict(os.environ)
    try:
        ray_session._environment_before_ray()
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "every listener on loopback"
    finally:
        os.environ.clear()
        os.environ.update(saved)


def test_cpus_are_those_of_the_affinity_mask(monkeypatch):
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert usable_cpus() == 1


def test_dashboard_hint(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    assert dashboard_hint(RaySession("", "/tmp/x")) == "no dashboard (cluster.dashboard=false)"
    assert dashboard_hint(RaySession("", "")) == "no dashboard on this cluster"
    hint = dashboard_hint(RaySession("http://127.0.0.1:8265", "/tmp/x"))
    assert "http://127.0.0.1:8265" in hint
    assert "cat /home/me/token" in hint


def test_a_free_port_can_be_used():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
