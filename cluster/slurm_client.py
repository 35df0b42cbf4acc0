"""sbatch, squeue, scancel and scontrol, with errors that a person can act on."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import ClusterError, ClusterInputError, SlurmRefused

TIMEOUT_S = 60.0
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED")
GONE = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
"""States of a job that squeue still lists for a while, and that runs nothing any more."""
FIELDS = "%i|%j|%T|%N|%M|%l|%r|%k"
REFUSALS = {
    r"invalid partition": "there is no such partition (or it is closed to you). `sinfo -s` lists them; partition=NAME",
    r"invalid account": "the account does not exist or may not use this partition. `sacctmgr show assoc user=$USER` "
    "lists yours; account=NAME",
    r"invalid qos": "the QOS does not exist or is not yours. `sacctmgr show assoc user=$USER format=qos` lists yours; "
    "qos=NAME",
    r"time limit is invalid|exceed.*time limit": "the time asked for exceeds the partition's limit. `sinfo -o '%P %l'` "
    "shows it; hours=N",
    r"MaxWall": "your account or QOS allows no job so long. `sacctmgr show qos format=name,maxwall` and `sacctmgr show "
    "assoc user=$USER format=account,maxwall` show what it allows; hours=N",
    r"Submit": "you have as many jobs, waiting ones included, as your account or QOS allows at once. `squeue --me` "
    "lists them; nodes=MIN..MAX with a smaller MAX, or wait until one has ended",
    r"violates accounting/qos policy": "a limit of your account or QOS is reached (jobs, GPUs or time). `squeue --me` "
    "shows what you hold; ask for less, or wait",
    r"node configuration is not available|requested node.*invalid": "no node of the partition has these GPUs, CPUs "
    "and memory. `sinfo -o '%P %G %c %m'` shows what there is; correct the node type in the cluster YAML",
    r"more processors requested|memory specification": "no node of the partition has these CPUs and memory. "
    "`sinfo -o '%P %G %c %m'` shows what there is; correct the node type in the cluster YAML",
}

REASONS = {
    r"Resources|Priority": "the nodes are taken, or others are first",
    r"PartitionTimeLimit|MaxWall": "it asks for more time than is allowed: hours=N",
    r"(Assoc|QOS)Grp": "all jobs of your account or QOS together hold what they may: it starts when one of them ends",
    r"Per(Job|Node)|Partition(NodeLimit|Config)": "one job may not ask for so much, so it would wait for ever",
    r"(Assoc|QOS)Max": "you hold as much as your account or QOS gives one person: it starts when a job of yours ends",
    r"ReqNodeNotAvail|Reservation|NodeDown|PartitionDown": "the site keeps these nodes back for the time being",
}
"""What a job waits for: patterns of Slurm's reasons, the first one that is found counts."""


@dataclass(frozen=True)
class Job:
    """A job as squeue lists it."""

    id: str
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, …"""
    node: str
    elapsed_s: int
    limit_s: int
    """Its wall limit; 0 where there is none."""
    reason: str
    """Why it waits."""
    comment: str

    @property
    def gone(self) -> bool:
        """True for a job that has ended, or is being ended, and is only still listed."""
        return self.state in GONE

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def waits_for(self) -> str:
        """Slurm's reason, and what it means where that is known."""
        meaning = next((said for pattern, said in REASONS.items() if re.search(pattern, self.reason)), "")
        return f"{self.reason} ({meaning})" if meaning else self.reason

    def tags(self) -> dict[str, str]:
        """What `comment_of` wrote into the comment."""
        return dict(part.split("=", 1) for part in self.comment.split(",") if "=" in part)


def comment_of(tags: Mapping[str, str]) -> str:
    """Tags as a job's comment; the only memory of the node provider."""
    for key, value in tags.items():
        if re.search(r"[,=|\s]", key + value):
            raise ValueError(f"tag {key}={value}: no comma, bar, equals sign or space")
    return ",".join(f"{key}={value}" for key, value in tags.items())


def submit(script: str, options: Sequence[str]) -> str:
    """Submit a job script (its text); the job id. Raises SlurmRefused, or ClusterError where Slurm does not answer."""
    said = _slurm(["sbatch", "--parsable", *options], stdin=script)
    return said.strip().splitlines()[-1].split(";")[0]


def test_only(script: str, options: Sequence[str]) -> None:
    """Ask Slurm whether it would take a job, without submitting it. Raises SlurmRefused where it would not."""
    _slurm(["sbatch", "--test-only", *options], stdin=script)


test_only.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name


def jobs(names: Sequence[str]) -> list[Job]:
    """Own jobs of these names, in Slurm's order. Raises ClusterError where the controller does not answer: nothing
    listed and nobody asked are two things."""
    options = ["--noheader", f"--user={getpass.getuser()}", f"--name={','.join(names)}", f"--format={FIELDS}"]
    return parse_jobs(_slurm(["squeue", *options, "--states=all"]))


def parse_jobs(text: str) -> list[Job]:
    """The lines of squeue in the format FIELDS."""
    found = []
    for line in text.splitlines():
        if line.count("|") < 7:
            continue
        id_, name, state, node, elapsed, limit, reason, comment = line.strip().split("|", 7)
        found.append(
            Job(
                id_, name, state, node, seconds(elapsed), seconds(limit), reason, comment if comment != "(null)" else ""
            )
        )
    return found


def seconds(clock: str) -> int:
    """Slurm's [days-][[hours:]minutes:]seconds as seconds; 0 for UNLIMITED, NOT_SET or INVALID."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", clock.strip())
    if not match:
        return 0
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def clock(total_s: float) -> str:
    """Seconds as Slurm reads a time limit, days-hours:minutes:00; rounded down to whole minutes, at least one."""
    minutes = max(1, int(total_s // 60))
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; those that are gone already are no error."""
    if ids:
        _slurm(["scancel", *ids], harmless=r"invalid job id|already completing|job/step already")


def requeue(job_id: str) -> None:
    """Put a running job back into the queue."""
    _slurm(["scontrol", "requeue", job_id])


def release(job_id: str) -> None:
    """Let a job start that was submitted held."""
    _slurm(["scontrol", "release", job_id])


def _slurm(command: Sequence[str], stdin: str = "", harmless: str = "") -> str:
    """The output of a Slurm command."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=clean_environment(os.environ),
            check=False,
        )
    except FileNotFoundError:
        raise ClusterInputError(
            f"{command[0]}: there is no Slurm on this machine. Run this on a login node of the cluster; for machines "
            "without Slurm see cluster/l40s.yaml, for this machine alone leave cluster= out"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]}: Slurm did not answer within {TIMEOUT_S:g} s. Try again later") from None
    if done.returncode == 0 or (harmless and re.search(harmless, done.stderr, re.IGNORECASE)):
        return done.stdout
    raise _refusal(command, done.stderr)


def _refusal(command: Sequence[str], stderr: str) -> ClusterError:
    """What Slurm said, and what it means."""
    said = "; ".join(line.partition("error: ")[2] or line for line in stderr.strip().splitlines()[:2])
    given = " ".join(word for word in command if re.match(r"--(partition|account|qos|time|gres|mem|cpus)", word))
    for pattern, meaning in REFUSALS.items():
        if re.search(pattern, stderr, re.IGNORECASE):
            return SlurmRefused(f"Slurm refused {given or command[0]} ({said}): {meaning}")
    if re.search("unable to contact|connection refused|socket timed out|communication connection", stderr, re.I):
        return ClusterError(f"{command[0]}: Slurm's controller does not answer ({said}). Try again later")
    return SlurmRefused(f"{command[0]} {given}: Slurm refused ({said or 'no reason given'})")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment a new job should start from: nothing of the job, the cards or the Ray that we are in, but where
    this person's Prometheus and Grafana are.

    TMPDIR within a job is the job's own folder: Slurm would make an empty one of that name on the node of the new job.
    """
    own_folder = "|TMPDIR$|TUNE_APP_NODE_CACHE$" if "RAY_CLOUD_INSTANCE_ID" in environment else ""
    ours = re.compile(
        r"SLURM_(?!CONF$)|SBATCH_|SRUN_|CUDA_VISIBLE|RAY_(?!PROMETHEUS_|GRAFANA_)|AUTOSCALER_METRIC|DASHBOARD_METRIC|"
        f"GPU_DEVICE{own_folder}"
    )
    return {name: value for name, value in environment.items() if not ours.match(name)}
