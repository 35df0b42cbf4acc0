"""`python -m tune_app.run`, whose trials tell which card Ray gave them:  python packed_trials.py FOLDER N key=value …

Each leaves FOLDER/NAME with Ray's card and CUDA_VISIBLE_DEVICES, and trains only when N have done so: when N live at
once.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 180.0


def main(folder: Path, together: int) -> None:
    from tune_app.ray_adapters import session as ray_session
    from tune_app.sweep import tuner

    ray_session._environment_before_ray()  # before the import below
    import ray

    from trainables.trial import SegmentationTrial

    class TellingTrial(SegmentationTrial):
        def step(self) -> dict[str, Any]:
            cards = ray.get_runtime_context().get_accelerator_ids()["GPU"]
            told = folder / str(self._trial["run"]["name"])
            told.write_text(f"{','.join(cards)} {os.environ['CUDA_VISIBLE_DEVICES']}")
            deadline = time.monotonic() + PATIENCE_S
            while len(list(folder.iterdir())) < together and time.monotonic() < deadline:
                time.sleep(0.1)
            return super().step()

    tuner.build_tuner = functools.partial(tuner.build_tuner, trainable=TellingTrial)
    from tune_app import run

    run.main()


if __name__ == "__main__":
    where, number = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
    main(where, number)
