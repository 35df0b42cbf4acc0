"""The plan of a sweep that begins: said in one line, and kept beside it so that the report can compare."""

from __future__ import annotations

import json

from tune_app.manifest import write_text
from tune_app.planning.forecast import PLAN, make_plan
from tune_app.planning.pace import earlier_pace
from tune_app.ray_session import TrialResources
from tune_app.sweep import Prepared


def record_plan(prepared: Prepared, resources: TrialResources) -> str:
    """Write plan.json into the sweep's folder and return the plan in one line.

    A sweep that goes on keeps its first plan; one that is extended gets another, of all its trials.
    """
    settings = prepared.settings
    exempt = int(bool(prepared.baseline) and settings.early_stopping)
    pace = earlier_pace(settings, resources)
    plan = make_plan(settings, resources, trials=prepared.num_trials, exempt=exempt, pace=pace)
    path = prepared.folder / PLAN
    if not path.exists() or prepared.extended:
        write_text(path, json.dumps(plan.as_dict(), indent=1) + "\n")
    return plan.line()
