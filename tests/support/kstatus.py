"""How Flux, Helm and others read an object: the rules of kstatus, for an LLMProxy and a Deployment.

They are those of sigs.k8s.io/cli-utils/pkg/kstatus: deletion first, then the generation, then the conditions
Reconciling and Stalled. What says nothing of all that counts as done, whatever its condition Ready says; for built-in
kinds there are rules of their own, of which only the Deployment's are here.
"""

from collections.abc import Mapping
from typing import Any

IN_PROGRESS, FAILED, CURRENT, TERMINATING = "InProgress", "Failed", "Current", "Terminating"


def verdict(item: Mapping[str, Any]) -> str:
    """Return what kstatus says of an object."""
    about, status = item["metadata"], item.get("status") or {}
    if about.get("deletionTimestamp"):
        return TERMINATING
    if status.get("observedGeneration", about.get("generation")) != about.get("generation"):
        return IN_PROGRESS
    for condition in status.get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in {"Reconciling", "Stalled"}:
            return IN_PROGRESS if condition["type"] == "Reconciling" else FAILED
    return _of_deployment(item["spec"], status) if item.get("kind") == "Deployment" else CURRENT


def _of_deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    progressing, available = conditions.get("Progressing") or {}, conditions.get("Available") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return FAILED
    wanted, pods, updated, ready, can_be_called = (
        spec.get("replicas", 1),
        *(status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")),
    )
    enough = wanted <= min(pods, updated, ready) and pods <= wanted and updated <= can_be_called
    rolled = (progressing.get("status"), progressing.get("reason")) == ("True", "NewReplicaSetAvailable")
    return CURRENT if enough and rolled and available.get("status") == "True" else IN_PROGRESS
