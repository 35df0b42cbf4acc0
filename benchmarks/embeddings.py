"""An epoch of a head on a frozen encoder: the encoder computed anew ÷ what it made of the volumes read from the cache.

The generated volumes of experiment=oct, 256 that train and 65 that validate, resampled to 16 × 64 × 64, an encoder of
0.4 M parameters, small for what is used on such volumes, and one thread; beside it the tiny one of the experiment on
8 × 32 × 32. Both sides train the same head on as many volumes, validate and make a row. Making the embeddings happens
once per sweep and is told beside the ratio. Takes three minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Result, interleaved, main, ratios, seconds

VIEWS = 2
OCT: dict[str, dict[str, Any]] = {
    "data": {
        "name": "classified_volumes",
        "patch": [8, 32, 32],
        "classes": ["normal", "drusen", "cnv", "dme"],
        "voxel_nm": [1, 1, 1],
        "mirror_y": False,
        "transpose": False,
        "rotate_degrees": 5,
        "gain": 0.1,
    },
    "model": {"name": "volume_classifier", "width": 8, "depth": 2, "options": {"head": "mlp"}},
    "trainer": {"iterations_per_epoch": 32, "batch_size": 8, "unfreeze_epoch": -1, "compile": False, "lr": 3e-3},
    "hardware": {"device": "cpu", "threads": 1},
    "task": {"name": "classification"},
}
LOSS = {"name": "cross_entropy", "params": {"weights": [1.0] * 4, "epsilon": 0.05}}


def engine(cache: str, views: int, patch: tuple[int, int, int], width: int) -> Any:
    from trainables.engine import Engine
    from trainables.settings import trial_settings

    own = {
        "data": OCT["data"] | {"cache_dir": cache, "patch": list(patch)},
        "trainer": OCT["trainer"] | {"cached_views": views},
        "model": OCT["model"] | {"width": width},
    }
    return Engine(trial_settings(OCT | own), LOSS, seed=0)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    for patch, width, target in (((16, 64, 64), 16, 20.0), ((8, 32, 32), 8, 2.0)):
        with tempfile.TemporaryDirectory() as cache:
            direct, cached = (engine(cache, views, patch, width) for views in (0, VIEWS))
            made = seconds(cached.run_epoch)
            direct.run_epoch()
            pairs = interleaved(
                lambda direct=direct: seconds(direct.run_epoch),  # type: ignore[misc]
                lambda cached=cached: seconds(cached.run_epoch),  # type: ignore[misc]
                min(3, arguments.repetitions),
            )
        sides = " × ".join(map(str, patch))
        yield Result(
            claim=f"seconds of an epoch of a head: frozen encoder computed ÷ its embeddings read, volumes of {sides}",
            values=ratios(pairs),
            target=target,
            note=f"{pairs[-1][0]:.2f} and {pairs[-1][1]:.3f} s; {made:.0f} s to make {VIEWS} views of each, once",
        )


if __name__ == "__main__":
    main(__doc__, run)
