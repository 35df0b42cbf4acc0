"""Other packages' searches on our tables, recorded: python -m benchmarks.peers.search_peers --tables FOLDER [PEER …].

Makes an environment for each package in --environments (pinned, everything from the package index that pip is
configured for, no GPU), replays every peer on every table with the seeds 0, 1, … and appends a line of JSON to --lines
per search, so that it can be ended and started at will. At the end the regrets are written to --record, which
`benchmarks.search_policy` compares ours with. One process at a time.

    Ray      in-process on `benchmarks.replay`, four slots; the environment lies over this one and adds what Ray needs
    Syne Tune 0.13   the last release with MOBSTER, Hyper-Tune and DyHPO, in its own simulator with four workers, on a
             blackbox of the same table, with the same seconds per epoch of a row
    NePS     asked and told, four workers on the same table with the same seconds
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from benchmarks.__main__ import processor
from benchmarks.learning_curves import Table, taskset, unit
from benchmarks.peers.cellmap_data import PeerError, run_command
from benchmarks.replay import SPREAD, Step
from benchmarks.search_policy import BUDGETS, RECORD, regret
from trainables.data.cache import cache_folder
from trainables.settings import DataSettings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """Packages of a peer, and what runs in it."""

    name: str
    packages: Sequence[str]
    command: Sequence[str]
    exports: bool
    """Whether its worker reads an exported table, since its environment has not what this project needs."""
    shown: Sequence[str]
    """Whose versions are recorded."""


RAY = Environment(
    name="ray",
    packages=(
        "torch==2.13.0",
        "numpy==2.4.6",
        "hpbandster==0.7.4",
        "ConfigSpace==1.2.2",
        "cmaes==0.13.1",
        "optuna-integration==5.0.0",
        "botorch==0.18.1",
        "gpytorch==1.15.2",
    ),
    command=("-m", "benchmarks.peers.ray_search"),
    exports=False,
    shown=("ray", "optuna", "optuna-integration", "cmaes", "hpbandster", "ConfigSpace", "botorch", "gpytorch"),
)
SYNE_TUNE = Environment(
    name="syne-tune",
    packages=(
        "syne-tune[gpsearchers]==0.13.0",
        "numpy==1.26.4",
        "pandas==2.2.3",
        "scipy==1.13.1",
        "autograd==1.7.0",
        "scikit-learn==1.5.2",
    ),
    command=("-m", "benchmarks.peers.syne_tune_search"),
    exports=True,
    shown=("syne-tune", "autograd"),
)
NEPS = Environment(
    name="neps",
    packages=("neural-pipeline-search==0.17.0", "torch==2.13.0", "numpy==2.4.6", "pandas==2.3.3"),
    command=("-m", "benchmarks.peers.neps_search"),
    exports=True,
    shown=("neural-pipeline-search",),
)
PEERS = {
    "random": RAY,
    "ASHA + random": RAY,
    "Ray's ASHA + OptunaSearch": RAY,
    "Ray's HyperBand": RAY,
    "BOHB": RAY,
    "Ray's ASHA + CMA-ES": RAY,
    "Ray's ASHA + GPSampler": RAY,
    "Ray's ASHA + BoTorch": RAY,
    "promoting ASHA": SYNE_TUNE,
    "MOBSTER": SYNE_TUNE,
    "Hyper-Tune": SYNE_TUNE,
    "DyHPO": SYNE_TUNE,
    "PriorBand": NEPS,
}


def ensure_environment(environment: Environment, folder: Path) -> Path:
    """Its Python in the folder, made first where it is not complete. PeerError with pip's words if it fails."""
    home = folder / environment.name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = "\n".join(environment.packages)
    with FileLock(f"{home}.lock"):
        complete = home / "complete"
        if not complete.exists() or complete.read_text() != wanted:
            print(f"making the environment of {environment.name} in {home}; this takes minutes", file=sys.stderr)
            run_command([sys.executable, "-m", "venv", "--clear", str(home)])
            python = str(home / "bin" / "python")
            if not environment.exports:
                purelib = run_command([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
                (Path(purelib) / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
            run_command([python, "-m", "pip", "install", "--quiet", "--no-input", *environment.packages])
            complete.write_text(wanted)
    return home / "bin" / "python"


def export(table: Table, seeds: int, path: Path) -> None:
    """places (n, d) in [0, 1], scores (n, E) and the seconds per epoch of each row, (seeds, n), as in `Replay`."""
    places = np.array([[unit(axis, point[name]) for name, axis in table.space.items()] for point in table.points])
    seconds = [np.random.default_rng(seed).lognormal(0.0, SPREAD, len(places)) for seed in range(seeds)]
    np.savez(path, places=places, scores=table.scores[:, 0], seconds=np.array(seconds))


def searches(
    python: Path, peer: str, table: Path, seeds: Sequence[int], epochs: int = max(BUDGETS)
) -> Iterator[dict[str, Any]]:
    """One line of JSON per seed, as the worker prints it."""
    environment = PEERS[peer]
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as errors:
        path = table
        if environment.exports:
            path = Path(scratch) / "table.npz"
            export(taskset(table), max(seeds) + 1, path)
        command = [str(python), *environment.command, str(path), peer, str(epochs), *map(str, seeds)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": scratch}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=os.environ | threads
        ) as process:
            assert process.stdout is not None
            yield from (json.loads(line) for line in process.stdout if line.startswith('{"seed"'))
        if process.returncode:
            errors.seek(0)
            raise PeerError(f"{peer} on {table.stem} ended with {process.returncode}:\n{errors.read()[-2000:]}")


def regrets(table: Table, steps: Sequence[Sequence[int]]) -> list[list[float] | None]:
    """(budgets, 2) of [row, epoch] pairs; None for a budget that they do not fill."""
    seen = [
        Step(trial=0, row=row, repeat=0, epoch=epoch, score=float(table.scores[row, 0, epoch - 1]))
        for row, epoch in steps
    ]
    return [
        [round(float(value), 5) for value in regret(table, seen[:epochs])] if len(seen) >= epochs else None
        for epochs in BUDGETS
    ]


def read_lines(path: Path) -> dict[tuple[str, str, int], list[list[float] | None]]:
    """{(peer, table, seed): regrets}; a line cut short by a crash is left out."""
    found = {}
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["peer"], line["table"], line["seed"]] = line["regret"]
    return found


def is_measured(regrets: Sequence[Sequence[float] | None] | None, epochs: int) -> bool:
    """Whether a line has every budget that a search of so many epochs fills."""
    wanted = [index for index, budget in enumerate(BUDGETS) if budget <= epochs]
    return regrets is not None and all(regrets[index] is not None for index in wanted)


def write_record(lines: Mapping[tuple[str, str, int], Any], versions: Mapping[str, str], path: Path) -> None:
    """regret[peer][table][seed][budget] is that of the validation loss and of the test loss; complete seeds only."""
    tables = sorted({table for _, table, _ in lines})
    peers = {}
    for peer in PEERS:
        seeds = 0
        while all((peer, table, seeds) in lines for table in tables):
            seeds += 1
        if seeds:
            peers[peer] = [[lines[peer, table, seed] for seed in range(seeds)] for table in tables]
    document = {
        "made": "python -m benchmarks.peers.search_peers",
        "date": str(date.today()),
        "processor": processor(),
        "versions": dict(versions),
        "budgets": BUDGETS,
        "tables": tables,
        "regret": peers,
    }
    path.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0))


def versions_in(python: Path, environment: Environment) -> dict[str, str]:
    code = (
        f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {environment.shown!r}}}))"
    )
    found: dict[str, str] = json.loads(run_command([str(python), "-c", code]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all without any")
    parser.add_argument("--tables", type=Path, required=True, help="folder of tables")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=max(BUDGETS), help="of a search; larger budgets are left out")
    parser.add_argument("--environments", type=Path, default=cache_folder(DataSettings()) / "peers")
    parser.add_argument("--lines", type=Path, default=Path("search_peers.jsonl"), help="appended to, search by search")
    parser.add_argument("--record", type=Path, default=RECORD, help="written at the end")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.peers) - set(PEERS))
    if unknown:
        parser.error(f"{unknown[0]}: no such peer. Choose from {', '.join(PEERS)}")
    tables = sorted(arguments.tables.glob("*.json"))
    if not tables:
        parser.error(f"--tables {arguments.tables}: no *.json in it; give the folder of TaskSet's tables")
    versions: dict[str, str] = {}
    for environment in (RAY, SYNE_TUNE, NEPS):
        versions |= versions_in(ensure_environment(environment, arguments.environments), environment)
    for peer in arguments.peers or PEERS:
        python = ensure_environment(PEERS[peer], arguments.environments)
        for path in tables:
            done = read_lines(arguments.lines)
            seeds = [
                seed
                for seed in range(arguments.seeds)
                if not is_measured(done.get((peer, path.stem, seed)), arguments.epochs)
            ]
            for found in searches(python, peer, path, seeds, arguments.epochs) if seeds else ():
                line = {"peer": peer, "table": path.stem, "seed": found["seed"]}
                line["regret"] = regrets(taskset(path), found["steps"])
                with arguments.lines.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{peer}  {path.stem}  seed {found['seed']}", flush=True)
    write_record(read_lines(arguments.lines), versions, arguments.record)


if __name__ == "__main__":
    try:
        main()
    except PeerError as error:
        sys.exit(str(error))
