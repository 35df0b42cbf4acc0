"""The trainable and the families in a Tuner of the user's own, without our driver: docs/with-ray-tune.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from sweeps import ROOT, Place

PAGE = (ROOT / "docs" / "with-ray-tune.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

AROUND = """
import ray, tempfile
from pathlib import Path

folder = Path.cwd()
ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, _temp_dir=tempfile.mkdtemp(), _node_ip_address="127.0.0.1")
"""
BREAKS = '''
import json

class Breaks(FamilyTrial):
    """Fails once, in its third epoch."""

    def step(self):
        once = Path(self.config["once"])
        if self.iteration == 2 and not once.exists():
            once.touch()
            raise RuntimeError("breaks once")
        return super().step()

def rows(result):
    lines = (Path(result.path) / "result.json").read_text().splitlines()
    return [(row["training_iteration"], row["mean_dice"], row["loss"]) for row in map(json.loads, lines)]

def tuner_of(name, once):
    fixed = {**space, "family": "static", "point": {"kappa": 0.5}, "once": str(once), "seed": 3}
    return tune.Tuner(Breaks, param_space=fixed, run_config=tune.RunConfig(name=name, storage_path=str(folder),
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1)))

(folder / "whole").touch()
(whole,) = tuner_of("w", folder / "whole").fit()
(broken,) = tuner_of("b", folder / "broken").fit()
print("BROKEN", len(rows(broken)), bool(broken.error))
(restored,) = tune.Tuner.restore(str(folder / "b"), Breaks, resume_errored=True).fit()
print("FOUND", json.dumps({"whole": rows(whole), "restored": rows(restored), "error": str(restored.error)}))
'''


def run_script(place: Place, text: str) -> str:
    script = place.folder / "script.py"
    script.write_text(text)
    environment = place.environment | {"HOME": str(place.folder), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    del environment["RAY_AUTH_TOKEN_PATH"]  # Ray makes a token in the home folder itself
    done = subprocess.run(
        [sys.executable, str(script)], cwd=place.folder, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_page_runs_and_a_broken_trial_is_restored_to_the_same_result(place: Place) -> None:
    code = EXAMPLES[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20, "fifteen statements"
    shown = run_script(place, AROUND + code + BREAKS)
    assert re.search(r"^\{'p': [\d.e-]+, 'q': [\d.e-]+\}$", shown, re.MULTILINE), shown
    assert "BROKEN 2 True" in shown
    found = json.loads(next(line for line in shown.splitlines() if line.startswith("FOUND"))[6:])
    assert found["error"] == "None"
    assert [row[0] for row in found["whole"]] == [1, 2, 3, 4]
    assert found["restored"] == found["whole"]
