"""The Grafana dashboard: its form, the gauges it asks for, and how it comes to stand among Ray's."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
from ray.dashboard.modules.metrics.grafana_dashboard_factory import generate_default_grafana_dashboard

from cluster import grafana
from cluster.grafana import DASHBOARDS, OURS, OWN_IDS, RAYS, WRITTEN_LAST, install, main, offer, with_ours

DASHBOARD = json.loads(OURS.read_text())
GAUGES = Path(__file__).parents[2] / "tune_app" / "ray_adapters" / "gauges.py"


def rays_default() -> str:
    """Ray's default dashboard from its own factory, which leaves a file open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return generate_default_grafana_dashboard()[0]


def session_in(folder: Path) -> Path:
    """A session folder with what Ray's own factory writes into it."""
    for path in (folder / DASHBOARDS, (folder / WRITTEN_LAST).parent):
        path.mkdir(parents=True)
    (folder / DASHBOARDS / RAYS).write_text(rays_default())
    (folder / WRITTEN_LAST).touch()
    return folder


def test_every_panel_is_complete() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, "none of somebody's own Grafana"
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        assert x + w <= 24
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_asks_for_every_gauge_and_for_no_other() -> None:
    asked = set(re.findall(r"ray_(tune_app_\w+)\{", json.dumps(DASHBOARD["panels"])))
    assert asked == set(re.findall(r'"(tune_app_\w+)"', GAUGES.read_text()))


def test_its_variables_are_those_it_uses() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == names


def test_ours_stand_at_the_top_of_rays_and_all_of_rays_below() -> None:
    rays = json.loads(rays_default())
    merged = with_ours(rays, DASHBOARD)
    added = [panel for panel in merged["panels"] if panel["id"] >= OWN_IDS]
    kept = [panel for panel in merged["panels"] if panel["id"] < OWN_IDS]
    assert [panel["title"] for panel in added[1:]] == [panel["title"] for panel in DASHBOARD["panels"]]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in added)
    assert min(panel["gridPos"]["y"] for panel in kept) == bottom
    for before, after in zip(rays["panels"], kept, strict=True):
        assert {**after, "gridPos": None, "panels": None} == {**before, "gridPos": None, "panels": None}
        assert after["gridPos"]["y"] - before["gridPos"]["y"] == bottom
    assert merged["uid"] == rays["uid"]
    names = [variable["name"] for variable in merged["templating"]["list"]]
    assert len(set(names)) == len(names)
    assert {"datasource", "SessionName", "sweep", "trial"} <= set(names)
    assert with_ours(merged, DASHBOARD) == merged, "a second time changes nothing"


def test_it_is_installed_beside_rays(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    assert install(session)
    assert json.loads((session / DASHBOARDS / OURS.name).read_text()) == DASHBOARD
    titles = [panel["title"] for panel in json.loads((session / DASHBOARDS / RAYS).read_text())["panels"]]
    assert "Best score" in titles
    assert "Node Count" in titles


@pytest.mark.parametrize("damage", ["no session", "no dashboard", "no JSON", "another form"])
def test_a_head_runs_without_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    monkeypatch.setattr(grafana, "PATIENCE_S", 0.0)
    session = tmp_path if damage == "no session" else session_in(tmp_path)
    path = session / DASHBOARDS / RAYS
    if damage == "no dashboard":
        path.unlink()
    elif damage == "no JSON":
        path.write_text("{")
    elif damage == "another form":
        path.write_text("{}")
    offer(session)
    assert "could not be added" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["/nope"], ["a", "b"]])
def test_a_session_that_is_none_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")
