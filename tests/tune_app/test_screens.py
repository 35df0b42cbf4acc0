"""What run, summary, confirm, plan and cluster status look like in a real terminal of 80 to 160 columns."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from screens import SCREENS, SEPARATOR, UNLIMITED, WIDTHS
from sweep_folder import WrittenTrial, write_sweep

from cluster.state import State, write_state

ROOT = Path(__file__).parents[2]
CLASSES = ("nuc", "mito_mem", "er_mem", "pm", "golgi_mem")
LONG = "seesaw_p0.3141592_q1.2718281_frequency_share"
LABELS = ("balanced_softmax_tau_1.0", "weight_uniform", LONG, "tversky_0.31_0.69", "seesaw_p0.5")
CONFIRMATION = {
    "arms": [
        {
            "name": name,
            "mean": 0.5 - 0.01 * n,
            "low": 0.41 - 0.01 * n,
            "high": 0.59 - 0.01 * n,
            "in_set": n < 2,
            "replicates": 5,
            "p_best": 0.25,
            "search_score": 0.5678,
            "winners_curse": 0.0123,
            "difference_to_baseline": 0.0456 - 0.01 * n,
            "baseline_p_holm": 0.0321,
        }
        for n, name in enumerate(LABELS)
    ],
    "statement": f"Nothing tells {LONG} and balanced_softmax_tau_1.0 apart: their intervals hold each other's mean.",
    "cautions": ["Two runs of each arm would have to differ by 0.0321 to be told apart, and these do by 0.0100 only."],
}
SQUEUE = """#!/bin/sh
echo '31415926|tune_app-longleaf-head|RUNNING|c0314.ll.unc.edu|1:05|1-00:00:00|None|(null)'
echo '31415927|tune_app-longleaf-worker|COMPLETING|g0603|0:05|1-00:00:00|None|type=l40s_2gpu'
echo '31415928|tune_app-longleaf-worker|RUNNING|g0603|3:20:00|1-00:00:00|None|type=l40s_2gpu'
echo '31415929|tune_app-longleaf-worker|PENDING||0:00|1-00:00:00|ReqNodeNotAvail, UnavailableNodes:g[0603-0605]|'
"""
REFUSED = (
    "a limit of your account or QOS is reached (jobs, GPUs or time). `squeue --me` shows what you hold; ask for less"
)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[str]]:
    """{(verb, columns): the lines that the terminal received}."""
    folder = tmp_path_factory.mktemp("screens")
    write_results(folder / "results")
    write_cluster(folder / "clusters" / "longleaf", folder / "bin")
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{folder / 'bin'}:{environment['PATH']}",
        "TUNE_APP_CACHE": str(folder / "cache"),
        "TUNE_APP_CLUSTERS": str(folder / "clusters"),
        "TUNE_APP_SETTINGS": "/dev/null",
        "HOME": str(folder),
    }
    program = Path(__file__).with_name("screens.py")
    text = in_terminal([sys.executable, str(program), str(folder / "results")], environment)
    found = {}
    for screen in text.split(SEPARATOR)[1:]:
        heading, _, shown = screen.partition("\n")
        name, width = heading.split()
        found[name, int(width)] = shown.splitlines()
    assert set(found) == {(name, width) for name in SCREENS for width in WIDTHS}, text
    return found


def write_results(folder: Path) -> None:
    rows = [[0.1234 + 0.1 * c + 0.01 * epoch for c in range(len(CLASSES))] for epoch in range(3)]
    trials = [
        WrittenTrial(label=label, dice=rows[: 3 * (n < 4)], status="finished" if n < 2 else "running", signature=label)
        for n, label in enumerate(LABELS)
    ]
    sweep = write_sweep(folder / "swept", trials, classes=CLASSES, status="interrupted", phantom=True)
    (sweep / "trials" / "0004_seesaw_p0.5" / "step.json").write_text('{"step": 10, "steps": 20}')
    (sweep / "confirmation.json").write_text(json.dumps(CONFIRMATION))


def write_cluster(folder: Path, programs: Path) -> None:
    folder.mkdir(parents=True)
    now = time.time()
    state = State(
        name="longleaf",
        head_job="31415926",
        python="3.11.2",
        ray="2.9",
        started=now,
        ends=now + 86400,
        address="c0314.ll.unc.edu:6379",
    )
    write_state(folder, state)
    (folder / "refused.json").write_text(json.dumps({"time": now, "message": REFUSED}))
    programs.mkdir()
    (programs / "squeue").write_text(SQUEUE)
    (programs / "squeue").chmod(0o755)


def in_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a program writes to a pseudo-terminal: each picture it draws below the one before, without colours."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    received = b""
    with open(master, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(65536):
                received += part
        except OSError:  # EIO: the program has closed its side
            pass
    text = received.decode().replace("\r\n", "\n")
    assert process.wait() == 0, text
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\x1b[1A", "\n").replace("\r", "\n"))


COPIED = ("python -m ", "results/swept")
"""A command, or a path, may be longer than a line: broken by the terminal alone, it can be copied."""
OTHER = re.compile(r"[─━╸╺]+|\d+:\d\d|\d+%")
"""What is drawn, and what the clock decides."""
KEPT = {
    "run": "trial epoch mean Dice 3/9 0/9 0.3434 early running nuc mito_mem er_mem golgi_mem .543",
    "summary": "rank name mean Dice calibrated nuc mito_mem er_mem golgi_mem status 0.3434 0.1434 0.5434 0.4900 0.4000 "
    "baseline Holm 0.0321 threshold +0.0000 class 0.0100 interrupted",
    "confirm": "arm mean low high ties with the best to baseline p Holm 0.5000 0.4600 0.3700 0.0456 0.0321",
    "plan": "trials epochs 82 108 memory main measure=true folder",
    "cluster": "head worker job 31415926 31415928 running pending c0314.ll.unc.edu left "
    "UnavailableNodes:g[0603-0605] c0314.ll.unc.edu:6379 GPU-hours refused reached",
}
"""What may be missing nowhere: at 80 columns some others are."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_nothing_is_cut_or_broken(screens: dict[tuple[str, int], list[str]], name: str, width: int) -> None:
    """Every word is one of those shown without limit, or a name without its middle."""
    lines, unlimited = screens[name, width], "\n".join(screens[name, UNLIMITED])
    assert [line for line in lines if len(line.rstrip()) > width and not any(text in line for text in COPIED)] == []
    shown = words_of("\n".join(line for line in lines if not line.startswith("…")))
    for word in shown - words_of(unlimited):
        start, _, end = map(re.escape, word.partition("…"))
        assert start, word
        assert end, f"{word} is cut, or a part of a word"
        names = re.findall(rf"(?<!\S){start}(?:\S| (?=\S))+{end}", unlimited)
        assert any(re.search("[a-z]", name) for name in names), f"{word} is of no name"
    assert [word for word in KEPT[name].split() if word not in shown] == []


def words_of(text: str) -> set[str]:
    return {word.strip("(),;") for word in text.split() if not OTHER.fullmatch(word)}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_running_sweep_shows_how_far_it_is(screens: dict[tuple[str, int], list[str]], width: int) -> None:
    text = "\n".join(screens["run", width])
    assert re.search(r"━ +\d+%$", text, re.MULTILINE)
    assert re.search(r"about \d:\d\d left", text)
