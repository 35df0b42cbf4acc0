"""What `submit`, and `run` from outside a cluster, refuse before a job is sent; no cluster is asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster import jobs
from cluster.connect import Connection
from tune_app import run as run_module
from tune_app import submit
from tune_app.errors import InputError
from tune_app.ray_adapters import remote as clusters
from tune_app.settings.command_line import compose
from tune_app.settings.schema import RunSettings


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The words of every job."""
    found: list[list[str]] = []
    connection = Connection(address="10.0.0.1:1", dashboard="", token=tmp_path / "token", here=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNE_APP_RESULTS", raising=False)
    for module in (submit, run_module):
        monkeypatch.setattr(module, "found", lambda settings: connection)
    monkeypatch.setattr("cluster.jobs.submit", lambda connection, module, words: found.append([*words]) or "id-1")
    monkeypatch.setattr("cluster.jobs.follow", lambda connection, id_: 0)
    return found


def run(words: list[str]) -> int:
    composed = compose("run", RunSettings, words)
    assert composed
    return run_module.run(composed)


def test_a_sweep_is_sent_with_its_words(sent) -> None:
    assert submit.act(["family=seesaw", "name=mine"]) == 0
    assert run(["family=seesaw", "cluster=longleaf"]) == 0
    assert sent == [["family=seesaw", "name=mine", "cluster.name=longleaf"], ["family=seesaw", "cluster=longleaf"]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["family=sesaw"], "sesaw"),
        (["preset=none"], "none"),
        (["name=a b"], "name=a b"),
        (["resume=nope"], "resume=nope"),
        (["space.p=[2,1]"], "space.p"),
    ],
)
def test_what_the_job_would_be_refused_for_is_refused_here(sent, words, sentence) -> None:
    for send in (submit.act, run):
        with pytest.raises(Exception, match="(?s)" + sentence.replace("[", r"\[")) as raised:
            send([*words, "cluster=longleaf"])
        assert type(raised.value).__name__ in ("InputError", "SearchSpaceError", "SettingsError")
    assert sent == []


def test_results_in_memory_are_refused_here(sent, monkeypatch) -> None:
    monkeypatch.setattr(clusters, "_file_system", lambda path: "tmpfs")
    for send in (submit.act, run):
        with pytest.raises(InputError, match="this node's memory"):
            send(["family=seesaw", "cluster=longleaf"])
    assert sent == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "jobs, logs, stop"),
        (["log"], "did you mean logs"),
        (["jbos"], "did you mean jobs"),
        (["logs", "id=a", "follow=maybe"], "true or false"),
        (["logs"], "id= is needed"),
    ],
)
def test_words_about_jobs_that_are_none(sent, words, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        submit.act(words)
    assert sent == []


def test_the_keys_of_a_sweep_are_understood_for_jobs(sent, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(submit, "found", lambda settings: asked.append(settings) or None)
    monkeypatch.setattr("cluster.jobs.submitted", lambda connection: [])
    submit.act(["jobs", "cluster.address=h:1", "cluster.token_path=t"])
    assert (asked[0].address, asked[0].token_path) == ("h:1", "t")


@pytest.mark.parametrize("width", [80, 100, None])
def test_the_table_of_jobs_fits(monkeypatch, tmp_path, width) -> None:
    ids = ["seesaw-1127-034541-ab12", f"{'long_name_' * 6}-1127-034541-ab12"]
    words = "family=seesaw cluster=longleaf data.root=/somewhere/deep/inside/a/file/system trainer.epochs=60 \n more"
    found = [
        SimpleNamespace(submission_id=id_, status=JobStatus.SUCCEEDED, start_time=number, metadata={"words": words})
        for number, id_ in enumerate(ids)
    ]
    monkeypatch.setattr(jobs, "client", lambda connection: SimpleNamespace(list_jobs=lambda: found))
    connection = Connection(address="10.0.0.1:1", dashboard="", token=tmp_path / "token", here=False)
    lines = jobs.listing(jobs.submitted(connection), width)
    assert len(lines) == (3 if width is None else 4)
    assert max(map(len, lines)) <= (width or 1000)
    assert [id_ for id_ in ids if id_ in "\n".join(lines)] == ids
    rows = [line for line in lines if "SUCCEEDED" in line]
    assert len(rows) == 2
    assert all("family=seesaw" in row for row in rows)
    assert {row.index("SUCCEEDED") for row in rows} == {lines[0].index("STATUS")}
    assert all("trainer.epochs=60 more" in row for row in rows) == (width is None)
    found.clear()
    assert jobs.listing(jobs.submitted(connection), width) == []
