"""What is served and how it is: for `/models`, health and readiness."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.parameters import Parameter
from app.models.registry import Deployment, Registry
from app.models.spec import Checkpoint
from app.workers.status import ServingState

SETTLED = (ServingState.READY, ServingState.UNAVAILABLE, ServingState.FAILED)


@dataclass(frozen=True, slots=True)
class Readiness:
    """ready: every version serves, has been given up or waits for a server behind it, and at least
    one serves; those that are unloaded, or being loaded by request, count neither way.

    started: the first load of every version has ended. stopping: no new work is taken. can_serve:
    a version serves, or none should. troubles: keys of versions that should serve and do not.
    """

    ready: bool
    started: bool
    stopping: bool
    versions: dict[str, dict[str, Any]]
    can_serve: bool
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """What protocols need to know of one version, to translate requests for it.

    versions: all of its model. takes: `text`, or `inputs` for tensors. signature: of a graph that
    takes tensors, once it is loaded. state: as in `ServingState`. chats: takes conversations, too.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    task: str
    takes: str
    runtime: str
    parameters: tuple[Parameter, ...]
    signature: Mapping[str, Any]
    state: str
    reason: str
    chats: bool = False


class ModelService:
    """Reads the registry; changes nothing but whether the server is stopping."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._is_stopping = False

    def stop(self) -> None:
        """From now on the server is not ready."""
        self._is_stopping = True

    def readiness(self) -> Readiness:
        expected = {
            deployment.spec.key: deployment.supervisor.state_of(deployment.spec.key)[0]
            for deployment in self._registry
            if not _is_aside(deployment)
        }
        states = set(expected.values())
        versions = {deployment.spec.key: _state(deployment) for deployment in self._registry}
        can_serve = ServingState.READY in states or (bool(versions) and not states)
        settled = states <= set(SETTLED)
        return Readiness(
            ready=settled and can_serve and not self._is_stopping,
            started=ServingState.LOADING not in states,
            stopping=self._is_stopping,
            versions=versions,
            can_serve=can_serve and not self._is_stopping,
            troubles=tuple(k for k, state in expected.items() if state is not ServingState.READY),
        )

    def find(self, name: str, version: str | None) -> ServedVersion:
        """The version, or the model's default. Raises ModelNotFound."""
        return self._served(self._registry.resolve(name, version))

    def served(self) -> list[ServedVersion]:
        """Every version, in the order of the catalog."""
        return [self._served(deployment) for deployment in self._registry]

    def _served(self, deployment: Deployment) -> ServedVersion:
        spec, status = deployment.spec, deployment.supervisor.status
        state, reason = deployment.supervisor.state_of(spec.key)
        return ServedVersion(
            name=spec.name,
            version=spec.version,
            versions=tuple(d.spec.version for d in self._registry if d.spec.name == spec.name),
            task=spec.task,
            takes=deployment.task.takes,
            chats=deployment.task.chats,
            runtime=str(status.artefact.get("runtime", spec.runtime)),
            parameters=deployment.parameters,
            signature=status.signature,
            state="stopping" if self._is_stopping else state.value,
            reason=reason,
        )

    def describe(self) -> list[dict[str, Any]]:
        """Every model with its versions, in the order of the catalog."""
        models: dict[str, dict[str, Any]] = {}
        for deployment in self._registry:
            spec = deployment.spec
            model = models.setdefault(
                spec.name, {"name": spec.name, "default_version": None, "versions": []}
            )
            if spec.is_default:
                model["default_version"] = spec.version
            model["versions"].append(_describe(deployment))
        return list(models.values())


def _is_aside(deployment: Deployment) -> bool:
    """It does not serve, because somebody wanted it so, or not yet, since somebody asked for it."""
    state, _ = deployment.supervisor.state_of(deployment.spec.key)
    is_loading = state is ServingState.LOADING
    asked_for = deployment.supervisor.was_asked_for(deployment.spec.key)
    return state.is_by_request or (is_loading and asked_for)


def _state(deployment: Deployment) -> dict[str, Any]:
    state, reason = deployment.supervisor.state_of(deployment.spec.key)
    shown = {"state": state.value, "reason": reason} if reason else {"state": state.value}
    status = deployment.supervisor.status
    next_start = status.next_start if state is status.state else None  # it may have failed alone
    if next_start is not None:
        shown["next_start"] = next_start.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return shown


def _describe(deployment: Deployment) -> dict[str, Any]:
    spec, status = deployment.spec, deployment.supervisor.status
    return {
        "version": spec.version,
        **_state(deployment),
        "description": spec.description,
        "task": spec.task,
        "model_type": deployment.task.model_type,
        "runtime": status.artefact.get("runtime", spec.runtime),
        "artefact": {
            "name": spec.artefact.name,
            "license": spec.artefact.license,
            "origin": spec.artefact.origin,
            "size_bytes": sum(file.size_bytes for file in spec.artefact.files),
            **_checkpoint(spec.artefact.checkpoint),
            **status.artefact,
        },
        "parameters": [parameter.describe() for parameter in deployment.parameters],
        "max_input_tokens": status.max_tokens,
        **({"signature": status.signature} if status.signature else {}),
        "default_timeout_ms": spec.default_timeout_ms,
        "cache": spec.cache,
        "worker": {
            "name": deployment.supervisor.name,
            "load_s": status.load_s,
            "restarts": status.restarts,
            "resident_bytes": status.resident_bytes,
            "unanswered": deployment.supervisor.unanswered,
            "calibration": status.calibration,
        },
    }


def _checkpoint(checkpoint: Checkpoint | None) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    return {"source": checkpoint.source, "precision": checkpoint.precision}
