"""Which deaths of an actor count as a failure of its trial."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial

from tune_app.lost_nodes import lost_nodes_are_no_failures

DIED = "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor died because its node has died."


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (RayActorError("a", DIED), 0),
        (RayActorError("a", "preempted", preempted=True), 0),
        (ActorUnavailableError("RpcError: RPC error: Socket closed rpc_code: 14", None), 0),
        (RayActorError("a", "The actor died: worker process killed by signal 9"), 1),
    ],
)
def test_a_lost_node_is_no_failure_of_the_trial(error, failures):
    trial = Trial("SegmentationTrial", stub=True)
    with lost_nodes_are_no_failures():
        trial._handle_ray_actor_error(error)
    assert trial.run_metadata.num_failures == failures


def test_afterwards_ray_counts_as_before():
    with lost_nodes_are_no_failures():
        pass
    trial = Trial("SegmentationTrial", stub=True)
    trial._handle_ray_actor_error(RayActorError("a", DIED))
    assert trial.run_metadata.num_failures == 1
