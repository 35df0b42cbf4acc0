"""Runs the benchmarks that need no GPU, one after the other, and prints one table: python -m benchmarks [NAME …].

Exit code 1 where a target was missed or a script broke. --write puts the table, dated, into docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import HEADER, Result, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NAMES = (
    "input_pipeline",
    "loss",
    "trial_start",
    "compile_cache",
    "sweep_efficiency",
    "plan_accuracy",
    "early_stopping",
    "search_policy",
    "confirmation",
    "scale",
    "memory",
    "workers",
    "prediction",
    "embeddings",
)
"""In the order of the table. `gpu_step` is run by hand where there is a GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without any")
    parser.add_argument("--json", type=Path, help="keep the results there; runs of single names are merged into it")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"{unknown[0]}: no such benchmark. Choose from {', '.join(NAMES)}")
    measured = read(arguments.json)
    broken = []
    for name in arguments.names or NAMES:
        results, took = measure(name)
        if results is None:
            broken.append(name)
            continue
        measured[name] = {"date": datetime.date.today().isoformat(), "seconds": round(took), "results": results}
        if arguments.json:
            arguments.json.write_text(json.dumps(measured, indent=1, ensure_ascii=False))
    text = page_table(measured)
    print(f"\n{text}")
    if arguments.write:
        PAGE.write_text(replace_between(PAGE.read_text(), text))
    for name in broken:
        print(f"benchmarks.{name} broke; its output is above", file=sys.stderr)
    sys.exit(1 if broken or not all(r.reached for entry in measured.values() for r in load(entry)) else 0)


def read(path: Path | None) -> dict[str, Any]:
    """What an earlier run left in `path`."""
    return json.loads(path.read_text()) if path and path.is_file() else {}


def measure(name: str) -> tuple[list[dict[str, Any]] | None, float]:
    """The results of one script, None where it broke, and the seconds it took."""
    print(f"--- {name}", flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)], cwd=ROOT, check=False)
        results = json.loads(path.read_text()) if path.is_file() else None
    return results, time.perf_counter() - started


def load(entry: dict[str, Any]) -> list[Result]:
    return [Result(**{**result, "values": tuple(result["values"])}) for result in entry["results"]]


def page_table(measured: dict[str, Any]) -> str:
    """The Markdown table of everything measured, with where and when."""
    rows = []
    for name in (name for name in NAMES if name in measured):
        for result in load(measured[name]):
            claim, *rest = result.row()
            rows.append([f"`{name}`", claim + (f" ({result.note})" if result.note else ""), *rest])
    dates = sorted({entry["date"] for entry in measured.values()})
    return f"{', '.join(dates)}; {hardware()}\n\n{table(rows, ['script', *HEADER])}"


def hardware() -> str:
    """Processor, cores and memory of this machine, and the versions that decide speed."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{processor()}, {cores} cores, {memory:.0f} GiB; Python {platform.python_version()}, torch {torch.__version__}"
    )


def processor() -> str:
    """The name the kernel gives the processor, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def replace_between(page: str, text: str) -> str:
    """The page with `text` between its two markers. Raises ValueError where one is missing."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{PAGE.name} must hold the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


if __name__ == "__main__":
    main()
