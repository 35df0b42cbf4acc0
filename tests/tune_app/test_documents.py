"""format=json: one document on stdout, as its schema says, of every verb; and the examples of docs/json.md."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from documents import SCHEMA, checked
from planned import dataset_in_memory
from ray.job_submission import JobStatus
from sweep_folder import WrittenTrial, write_sweep

from cluster import jobs
from cluster.connect import Connection
from tune_app import run as run_module
from tune_app import submit
from tune_app.__main__ import VERBS
from tune_app.exporting import export as export_module
from tune_app.sweep.runner import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
TRIALS = [
    WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6)], params={"p": 0.8}, seed=4),
    WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.2), (0.5, 0.2)], status="stopped early", params={"p": 1.9}),
    WrittenTrial(label="seesaw_p1.1", dice=[(0.4, 0.2), (float("nan"), 0.2)], status="failed: nan", params={"p": 1.1}),
    WrittenTrial(label="seesaw_p0.1", status="waiting", params={"p": 0.1}),
]
Typed = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Begun:
    """What `run` reads of a sweep that was prepared."""

    folder: Path
    notify: Any = None


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Types `python -m tune_app.VERB WORDS format=json` beside two sweeps, `a` and `b`; the document, checked."""
    for name in ("a", "b"):
        write_sweep(tmp_path / "results" / name, TRIALS, status="finished" if name == "a" else "interrupted")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    monkeypatch.setattr(export_module, "write_program", lambda *_: "")

    def type_words(verb: str, *words: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", [verb, *words, "format=json"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"tune_app.{verb}").main()
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        document = checked(out)
        assert document["schema"] == f"tune_app.{verb}/1"
        return document

    return type_words


def test_what_is_read_of_sweeps_and_exports(typed: Typed, tmp_path: Path) -> None:
    summary = typed("summary", "sweep=a")
    assert [row["rank"] for row in summary["leaderboard"]][:2] == [1, 2]
    assert typed("compare", "a=a", "b=b", "out=page.html")["page"] == "page.html"
    runs = typed("compare", "a=a/0", "b=a/1")
    assert (runs["of"], runs["a"]["name"]) == ("runs", "a/0000_seesaw_p0.8")
    made = typed("export", "sweep=a", "top=9", "out=best")
    assert [one["score"] for one in made["exports"]] == pytest.approx([0.7, 0.35])
    assert any("only 2 of the top=9" in notice for notice in made["notices"])
    assert typed("show", "checkpoint=best/1")["score"] == pytest.approx(0.7)
    assert typed("show", "checkpoint=a/3")["score"] is None
    page = typed("report", "sweep=a")
    assert Path(page["file"]).stat().st_size == page["bytes"]
    found = typed("sweeps")
    assert {(row["name"], row["status"]) for row in found["sweeps"]} == {("a", "finished"), ("b", "interrupted")}
    assert typed("sweeps", "action=delete", "sweep=a")["removed"] is False
    assert typed("sweeps", "action=clean", "keep_gb=0", "force=true")["removed"] == []


def test_what_is_told_of_plans_and_data(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = typed("plan", "family=seesaw", "resources.num_cpus=2", "gpus=0")
    assert (plan["what"], plan["device"], plan["seconds_per_epoch"]) == ("family=seesaw", "CPU", None)
    missing = typed("data", "data=cellmap", "data.root=nowhere", code=2)
    assert (missing["errors"], missing["findings"][0]["level"]) == (1, "error")
    made = typed("data", "action=make", "data=wildfire", "out=fires")
    assert Path(made["folder"]).is_dir()
    monkeypatch.setattr("tune_app.frequencies.open_packed", dataset_in_memory)
    counts = typed("frequencies", "out=counts.json")
    assert json.loads(Path("counts.json").read_text())["positive"] == [row["positive"] for row in counts["classes"]]


@pytest.mark.parametrize(("name", "complete", "code"), [("a", True, 0), ("b", False, 130)])
def test_how_a_sweep_ended(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, complete: bool, code: int
) -> None:
    """Everything that `run` tells meanwhile is on stderr."""
    outcome = Outcome(folder=tmp_path / "results" / name, complete=complete)
    monkeypatch.setattr(run_module, "take_up", lambda composed: print("told on the way") or Begun(outcome.folder))
    monkeypatch.setattr(run_module, "run_sweep", lambda prepared, announce: outcome)
    found = typed("run", f"resume={name}", code=code)
    assert found["best"]["name"] == "0000_seesaw_p0.8"
    assert found["best"]["score"] == pytest.approx(0.7)
    assert found["trials"] == {"finished": 1, "stopped early": 1, "failed: nan": 1, "waiting": 1}
    assert any(f"resume={name}" in step for step in found["next"]) != complete


def test_jobs(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = SimpleNamespace(submission_id="x-1", status=JobStatus.RUNNING, start_time=7000, metadata={"words": "a=1  b"})
    monkeypatch.setattr(jobs, "client", lambda connection: SimpleNamespace(list_jobs=lambda: [job]))
    monkeypatch.setattr(jobs, "log_of", lambda connection, id_: "epoch 1\n")
    monkeypatch.setattr(jobs, "stop", lambda connection, id_: "STOPPED")
    monkeypatch.setattr(jobs, "submit", lambda connection, module, words: "x-2")
    connection = Connection(address="10.0.0.1:1", dashboard="", token=tmp_path / "token", here=False)
    monkeypatch.setattr(submit, "found", lambda settings: connection)
    assert typed("submit", "family=seesaw")["words"] == ["family=seesaw", "cluster.name=longleaf"]
    assert typed("submit", "jobs")["jobs"] == [{"id": "x-1", "status": "running", "started": 7.0, "words": "a=1 b"}]
    assert typed("submit", "logs", "id=x-1")["log"] == "epoch 1\n"
    assert typed("submit", "stop", "id=x-1")["status"] == "stopped"


@pytest.mark.parametrize("verb", VERBS)
def test_bad_input_is_one_sentence_on_stderr(
    typed: Typed, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [verb, "format=yaml"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tune_app.{verb}").main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("error: format=yaml")
    assert "json" in err


def test_the_schema_is_one_and_the_page_shows_every_document() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    shown = [checked(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    assert {one["schema"] for one in shown} == {f"tune_app.{verb}/1" for verb in VERBS}
