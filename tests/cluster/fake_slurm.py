"""sbatch, squeue, scancel and scontrol that keep their jobs in a folder: for tests of what is asked of Slurm."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

FAKE = f"""#!{sys.executable} -IS
import json, os, re, sys
from pathlib import Path

folder = Path(os.environ["FAKE_SLURM"])
program, words = Path(sys.argv[0]).name, sys.argv[1:]
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps([program, *words]) + "\\n")
refusal = folder / f"{{program}}.refuses"
if refusal.is_file():
    sys.stderr.write(refusal.read_text())
    sys.exit(1)
path = folder / "jobs.json"
jobs = json.loads(path.read_text()) if path.is_file() else []
given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
if program == "sbatch" and "--test-only" not in words:
    job = dict(id=str(101 + len(jobs)), name=given["job-name"], state="PENDING", node="")
    job["comment"] = given.get("comment", "")
    (folder / f"{{job['id']}}.sh").write_text(sys.stdin.read())
    path.write_text(json.dumps([*jobs, job]))
    print(job["id"])
elif program == "squeue":
    names = given["name"].split(",")
    for job in jobs:
        if job["name"] in names:
            fields = job["id"], job["name"], job["state"], job["node"], "1:05", "1-00:00:00"
            print(*fields, job.get("reason", "Resources"), job["comment"] or "(null)", sep="|")
elif program == "scancel":
    for job in jobs:
        if job["id"] in words:
            job["state"] = "CANCELLED"
    path.write_text(json.dumps(jobs))
"""


class FakeSlurm:
    """Slurm's commands on PATH; what they were asked, and what they should say."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True, parents=True)
            program.write_text(FAKE)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM", str(folder))

    def calls(self, program: str) -> list[list[str]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines() if (self.folder / "calls.jsonl").exists() else []
        return [words for name, *words in map(json.loads, lines) if name == program]

    def refuse(self, program: str, message: str) -> None:
        (self.folder / f"{program}.refuses").write_text(message)

    def set_state(self, job_id: str, state: str, node: str = "", reason: str = "Resources") -> None:
        path = self.folder / "jobs.json"
        jobs = json.loads(path.read_text())
        for job in jobs:
            if job["id"] == job_id:
                job.update(state=state, node=node, reason=reason)
        path.write_text(json.dumps(jobs))

    def script(self, job_id: str) -> str:
        return (self.folder / f"{job_id}.sh").read_text()
