"""python -m cluster up|status|down|dashboard key=value …

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster.errors import ClusterError, ClusterInputError
from cluster.words import read_words

HELP = """python -m cluster VERB key=value …

  up         start a Ray head as a Slurm job; workers come and go as trials need them
             nodes=0..2 hours=24 gpus_per_node=2 name=longleaf partition= account= qos= head_partition= idle_minutes=5
             config=MY.yaml (another cluster YAML than cluster/longleaf-l40s.yaml) wait_s=300
  status     what runs, where, until when, and what it cost so far     name=longleaf
  down       stop all of it                                            name=longleaf
             force=true where sweeps still run on it: they end where they are
  dashboard  the ssh line and the address to open                      name=longleaf

Then: python -m tune_app.run family=seesaw cluster=longleaf. docs/longleaf.md walks through it.
"""


def act(words: Sequence[str]) -> int:
    """Run one verb; the exit code. Raises ClusterError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    from cluster import lifecycle

    verbs: dict[str, tuple[type, Callable[[Any], int]]] = {
        "up": (lifecycle.UpSettings, lifecycle.up),
        "status": (lifecycle.NameSettings, lifecycle.status),
        "down": (lifecycle.DownSettings, lifecycle.down),
        "dashboard": (lifecycle.NameSettings, lifecycle.dashboard),
    }
    verb, rest = words[0], words[1:]
    if verb not in verbs:
        raise ClusterInputError(
            f"{verb}: no such verb. Choices: {', '.join(verbs)}. python -m cluster --help shows all"
        )
    if {"-h", "--help"} & set(rest):
        print(HELP)
        return 0
    schema, function = verbs[verb]
    return function(read_words(schema, rest, f"python -m cluster {verb}"))


def main() -> None:
    try:
        sys.exit(act(sys.argv[1:]))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; jobs that were submitted go on: python -m cluster status", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
