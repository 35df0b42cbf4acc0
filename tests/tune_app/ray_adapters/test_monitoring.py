"""A sweep watched with real tools: Debian's Prometheus scrapes it, Chromium opens Ray's dashboard.

Grafana is packaged neither by Debian nor on PyPI or npm. What it would ask Prometheus is asked here, and where it would
be embedded is looked up, with a stand-in that only says that it is healthy.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium, find_chromium
from monitors import prometheus_on, stand_in_grafana
from sweeps import PATIENCE_S, TINY, Place, Run, place_in

from cluster.grafana import DASHBOARDS, OURS, OWN_IDS, RAYS
from tune_app.ray_adapters.gauges import written
from tune_app.ray_adapters.session import free_port
from tune_app.results.sweep import Sweep

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus (Debian: apt install prometheus)"),
]
needs_chromium = pytest.mark.skipif(not find_chromium(), reason="needs Chromium (Debian: apt install chromium)")
SWEEP = (
    "family=seesaw",
    "name=watched",
    "results_dir=results",
    *(word for word in TINY if "dashboard" not in word),
    "search=random",
    "search.num_samples=200",
    "scheduler.name=none",
    "diagnosis.stop_hopeless=false",
    "trainer.epochs=40",
)
"""Longer than the tests; they end it."""
NEEDS_GPU = {"ray_tune_app_gpu_memory_mb"}
ADDRESS = re.compile(r"^dashboard +(http://127\.0\.0\.1:\d+)", re.MULTILINE)


class Watched:
    """A running sweep, the Prometheus that scrapes it, and the addresses of both."""

    def __init__(self, place: Place, run: Run, prometheus: str, grafana: str) -> None:
        self.place, self.run, self.prometheus, self.grafana = place, run, prometheus, grafana
        run.until(lambda: bool(ADDRESS.search(run.output())))
        found = ADDRESS.search(run.output())
        assert found
        self.dashboard = found[1]
        self.session = place.temporary / "ray" / "ray" / "session_latest"
        self.token = (place.folder / "token").read_text()

    @property
    def folder(self) -> Path:
        return self.place.sweep("watched")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that Prometheus answers with."""
        answer = get(f"{self.prometheus}/api/v1/query?query={urllib.parse.quote(expression)}")
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to be true, and return it; the sweep must not end before."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert self.run.process.poll() is None, self.run.output()
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}\n{self.run.output()}"
            time.sleep(0.5)
        return found

    def api(self, path: str) -> dict[str, Any]:
        """What Ray's dashboard answers to a holder of the token."""
        return get(self.dashboard + path, Authorization=f"Bearer {self.token}")


def get(url: str, **headers: str) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Watched]:
    port = free_port()
    with place_in(tmp_path_factory.mktemp("watched"), shared_cache) as place, stand_in_grafana() as grafana:
        address = f"http://127.0.0.1:{port}"
        place.environment |= {"RAY_PROMETHEUS_HOST": address, "RAY_GRAFANA_HOST": grafana}
        run = place.start("run", *SWEEP, f"cluster.temp_dir={place.temporary / 'ray'}")
        found = Watched(place, run, address, grafana)
        config = found.session / "metrics" / "prometheus" / "prometheus.yml"
        found.until(config.is_file, "Ray's configuration for Prometheus")
        with prometheus_on(port, config, place.folder / "prometheus"):
            yield found
            run.process.send_signal(signal.SIGINT)
            run.wait()


@pytest.fixture(scope="module")
def scraped(watched: Watched) -> Watched:
    """The same, once a trial has ended and another one has been scraped."""
    watched.until(lambda: prometheus_answers(watched), "Prometheus to answer")
    watched.until(lambda: watched.query('ray_tune_app_trials{state="finished"} > 0'), "a finished trial to be scraped")
    return watched


def prometheus_answers(watched: Watched) -> bool:
    with contextlib.suppress(urllib.error.URLError):
        return bool(watched.query("vector(1)"))
    return False


def best_in_folder(watched: Watched) -> float:
    return max((trial.best["mean_dice"] for trial in Sweep(watched.folder).trials if trial.best), default=-1.0)


def test_prometheus_knows_the_best_mean_dice(scraped: Watched) -> None:
    def agree() -> bool:
        series = scraped.query('ray_tune_app_best_score{sweep="watched"}')
        assert len(series) <= 1
        return bool(series) and float(series[0]["value"][1]) == pytest.approx(best_in_folder(scraped), abs=1e-9)

    scraped.until(agree, "Prometheus and the sweep's own results to agree on the best mean Dice")


def test_gauges_name_trials_and_parameters(scraped: Watched) -> None:
    every = scraped.query('max by (trial, params) (max_over_time(ray_tune_app_score{sweep="watched"}[10m]))')
    of_trials = {trial.name: written(trial.config) for trial in Sweep(scraped.folder).trials}
    shown = {one["metric"]["trial"]: one["metric"]["params"] for one in every}
    assert len(shown) >= 2
    assert shown.items() <= of_trials.items()
    assert any(re.match(r"seesaw p=\d.* q=\d", params) for params in shown.values())


def test_curves_of_ended_trials_end_and_the_sweeps_go_on(scraped: Watched) -> None:
    """A row lasts for twenty seconds in Ray; the sweep's own gauges must not have gone in between."""
    ended = {trial.name for trial in Sweep(scraped.folder).trials if trial.status == "finished"}
    assert ended

    def gone() -> bool:
        return not ended & {one["metric"]["trial"] for one in scraped.query("ray_tune_app_epoch")}

    scraped.until(gone, f"the curves of {ended} to end")
    for gauge in ('ray_tune_app_trials{sweep="watched",state="running"}', 'ray_tune_app_best_score{sweep="watched"}'):
        (counted,) = scraped.query(f"count_over_time({gauge}[30s])")
        assert int(counted["value"][1]) >= 2, "no gap between two scrapes"


def expressions() -> list[Any]:
    panels = json.loads(OURS.read_text())["panels"]
    asked = [(panel["title"], target) for panel in panels for target in panel["targets"]]
    return [pytest.param(target["expr"], id=f"{title} {target['refId']}") for title, target in asked]


@pytest.mark.parametrize("expression", expressions())
def test_every_panel_of_the_grafana_dashboard_has_something_to_show(scraped: Watched, expression: str) -> None:
    asked = expression.replace("$__range", "10m").replace("$sweep", "watched").replace("$trial", ".+")
    assert "$" not in asked
    if any(gauge in asked for gauge in NEEDS_GPU):  # no such series here; the same question about another gauge
        assert scraped.query(asked) == []
        asked = re.sub("|".join(NEEDS_GPU), "ray_tune_app_patches_per_s", asked)
    assert scraped.until(lambda: scraped.query(asked), f"an answer to {asked}")


def test_rays_dashboard_finds_prometheus(scraped: Watched) -> None:
    assert scraped.api("/api/prometheus_health")["result"] is True


def test_the_metrics_tab_shows_our_panels(scraped: Watched) -> None:
    """The tab embeds the Grafana dashboard that Ray names `default`, and ours stands at the top of that one's file."""
    command = [sys.executable, "-m", "cluster.grafana", str(scraped.session)]
    for _ in range(2):
        done = subprocess.run(command, env=scraped.place.environment, capture_output=True, text=True, check=True)
        assert done.stdout == "installed\n"
    merged = json.loads((scraped.session / DASHBOARDS / RAYS).read_text())
    assert sum(panel["id"] >= OWN_IDS for panel in merged["panels"]) == len(json.loads(OURS.read_text())["panels"]) + 1
    assert merged["uid"] == scraped.api("/api/grafana_health")["data"]["dashboardUids"]["default"]
    provided = (scraped.session / "metrics/grafana/provisioning/dashboards/default.yml").read_text()
    assert str((scraped.session / DASHBOARDS).resolve()) in provided, "where Grafana looks for them"
    assert (scraped.session / DASHBOARDS / OURS.name).read_text() == OURS.read_text()


@pytest.fixture(scope="module")
def inside(scraped: Watched) -> Iterator[Browser]:
    """A browser that was asked for the token on Ray's dashboard, and given it as a person gives it."""
    with chromium() as browser:
        browser.open(scraped.dashboard)
        wait_for(browser, "Authentication Token Required")
        give_token(browser, "0" * 64)
        wait_for(browser, "Invalid authentication token")
        browser.until_loaded(lambda: give_token(browser, scraped.token))
        wait_for(browser, "Resource Status")
        yield browser


def go_to(browser: Browser, page: str) -> None:
    """One of the dashboard's pages; it is one document, so nothing is loaded."""
    browser.evaluate(f"location.hash = '#/{page}'")


def give_token(browser: Browser, token: str) -> None:
    """Type it into the dialog, over what is there, and press Submit."""
    field = "document.querySelector('[role=dialog] input')"
    browser.evaluate(f"({field}.focus(), {field}.select())")
    browser.call("Input.insertText", text=token)
    assert browser.evaluate(f"{field}.value") == token
    browser.evaluate("[...document.querySelectorAll('button')].find(b => b.textContent === 'Submit').click()")


def text_of(browser: Browser) -> str:
    return str(browser.evaluate("document.body ? document.body.innerText : ''"))


def wait_for(browser: Browser, *words: str) -> str:
    """The page's text, once it has all the words."""
    deadline = time.monotonic() + PATIENCE_S
    while not all(word in (text := text_of(browser)) for word in words):
        assert time.monotonic() < deadline, f"waited for {words}:\n{text}"
        time.sleep(0.5)
    return text


@needs_chromium
@pytest.mark.browser
def test_the_dashboard_lists_the_sweep_as_a_job(inside: Browser, scraped: Watched) -> None:
    go_to(inside, "jobs")
    shown = wait_for(inside, "RUNNING", "name=watched")
    assert "tune_app.run" in shown
    keep(inside, scraped, "jobs")


@needs_chromium
@pytest.mark.browser
def test_the_dashboard_lists_the_actors_by_their_slots(inside: Browser, scraped: Watched) -> None:
    go_to(inside, "actors")
    shown = wait_for(inside, "SegmentationTrial", "ALIVE", "trial_slot_")
    alive = scraped.api("/api/v0/actors?detail=1")["data"]["result"]["result"]
    slots = {one["repr_name"] for one in alive if one["state"] == "ALIVE" and one["repr_name"]}
    assert slots
    assert slots <= set(re.findall(r"trial_slot_\d+", shown))
    keep(inside, scraped, "actors")


@needs_chromium
@pytest.mark.browser
def test_the_metrics_tab_opens_grafana_at_rays_default_dashboard(inside: Browser, scraped: Watched) -> None:
    go_to(inside, "metrics")
    wait_for(inside, "VIEW TAB IN GRAFANA")
    source = urllib.parse.urlsplit(inside.evaluate("document.querySelector('iframe').src"))
    uid = json.loads((scraped.session / DASHBOARDS / RAYS).read_text())["uid"]
    assert f"{source.scheme}://{source.netloc}{source.path}" == f"{scraped.grafana}/d/{uid}/"
    assert urllib.parse.parse_qs(source.query)["var-datasource"] == ["Prometheus"]
    keep(inside, scraped, "metrics")


def keep(browser: Browser, watched: Watched, name: str) -> None:
    """A picture in the test's folder, for whoever wants to see it."""
    (watched.place.folder / f"{name}.png").write_bytes(browser.screenshot(whole=False))
