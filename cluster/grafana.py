"""Puts our Grafana dashboard among those that Ray generates:  python -m cluster.grafana TEMP/session_latest

The metrics tab of Ray's dashboard shows one dashboard of Grafana, Ray's default one. So our panels come to stand at its
top; by itself ours lies beside it, in Grafana's folder Ray. Nothing is imported by hand: Grafana, started with the
configuration that Ray wrote, reads both files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.state import write_whole

OURS = Path(__file__).with_name("monitoring") / "grafana_dashboard.json"
DASHBOARDS = Path("metrics", "grafana", "dashboards")
RAYS = "default_grafana_dashboard.json"
WRITTEN_LAST = Path("metrics", "prometheus", "prometheus.yml")
OWN_IDS = 900_000
"""Added to the ids of our panels: Ray's are far below."""
PATIENCE_S = 30.0


def install(session: Path) -> bool:
    """Add ours to the dashboards of a Ray session (its folder), once; False where Ray wrote none within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not (session / WRITTEN_LAST).is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    folder = session / DASHBOARDS
    ours = json.loads(OURS.read_text())
    rays = json.loads((folder / RAYS).read_text())
    # With the mode of Ray's own files: Grafana may run as another user. It looks at *.json only.
    write_whole(folder / RAYS, json.dumps(with_ours(rays, ours)), mode=0o644)
    write_whole(folder / OURS.name, OURS.read_text(), mode=0o644)
    return True


def offer(session: Path) -> None:
    """`install` for a head, which runs without it as well: a line in its log says what went wrong."""
    try:
        done = install(session)
    except (OSError, ValueError, KeyError) as error:
        done = False
        print(f"note: {error!r}", flush=True)
    if not done:
        print(f"note: our Grafana dashboard could not be added to those in {session / DASHBOARDS}", flush=True)


def with_ours(rays: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ray's dashboard with our panels and variables before its own; as it is where it has them already."""
    if any(panel["id"] >= OWN_IDS for panel in rays["panels"]):
        return dict(rays)
    row = {"id": OWN_IDS, "type": "row", "title": ours["title"], "collapsed": False, "panels": []}
    added = [{**row, "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}}]
    added += [_as_rays(panel) | {"id": panel["id"] + OWN_IDS} for panel in _lowered(ours["panels"], 1)]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in added)
    known = {variable["name"] for variable in rays["templating"]["list"]}
    new = [_as_rays(variable) for variable in ours["templating"]["list"] if variable["name"] not in known]
    variables = [*rays["templating"]["list"], *new]
    return {**rays, "panels": [*added, *_lowered(rays["panels"], height)], "templating": {"list": variables}}


def _lowered(panels: list[dict[str, Any]], lines: int) -> list[dict[str, Any]]:
    """The panels, and those inside of rows, so many lines further down."""
    return [
        {**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] + lines}}
        | ({"panels": _lowered(panel["panels"], lines)} if "panels" in panel else {})
        for panel in panels
    ]


def _as_rays(part: Mapping[str, Any]) -> dict[str, Any]:
    """A panel or variable that names its data source as Ray's older form of a dashboard does."""
    return {**part, "datasource": "${datasource}"}


def main(words: Sequence[str]) -> int:
    """Add ours to the session folder given; the exit code."""
    if len(words) != 1 or not Path(words[0]).is_dir():
        given = f"{words[0]} is no folder" if words else "which session"
        print(
            f"error: {given}: python -m cluster.grafana TEMP/ray/session_latest, TEMP as in cluster.temp_dir=TEMP",
            file=sys.stderr,
        )
        return 2
    if not install(Path(words[0])):
        print(f"error: {words[0]} is no session folder of a running Ray with a dashboard", file=sys.stderr)
        return 2
    print("installed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
