"""Which versions are served, and the way from a caller's words to one of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import ModelNotFound
from app.core.parameters import Parameter
from app.models.spec import ModelSpec
from app.tasks.catalogue import TaskInfo, task_info
from app.workers.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version and the worker that answers for it."""

    spec: ModelSpec
    supervisor: Supervisor

    @property
    def task(self) -> TaskInfo:
        return task_info(self.spec.task, self.spec.kind)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.task.parameters

    def draws(self, parameters: Mapping[str, Any]) -> bool:
        """Whether an equal request may be answered otherwise, because tokens are drawn at random.

        parameters: complete. Yes, too, as long as it is not known what the checkpoint itself does.
        """
        if self.task.draws is None:
            return False
        options = self.supervisor.task_options.get(self.spec.key)
        return options is None or self.task.draws(parameters, options.get("generation") or {})


class Registry:
    """All deployments, in the order of the catalog."""

    def __init__(self, deployments: Iterable[Deployment]) -> None:
        self._deployments = {
            (deployment.spec.name, deployment.spec.version): deployment
            for deployment in deployments
        }
        self._defaults = {
            name: version
            for (name, version), deployment in self._deployments.items()
            if deployment.spec.is_default
        }

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def resolve(self, name: str, version: str | None) -> Deployment:
        """The version asked for, or the model's default.

        Raises ModelNotFound, listing what exists.
        """
        if name not in self._defaults:
            known = ", ".join(self._defaults) or "none"
            raise ModelNotFound(f"model {_shown(name)} does not exist; models: {known}")
        found = self._deployments.get((name, version or self._defaults[name]))
        if found is None:
            known = ", ".join(v for n, v in self._deployments if n == name)
            raise ModelNotFound(
                f"model {name!r} has no version {_shown(version or '')}; versions: {known}"
            )
        return found

    def versions(self, name: str, version: str | None) -> list[Deployment]:
        """The version asked for, or all of the model. Raises ModelNotFound."""
        found = self.resolve(name, version)
        return [found] if version else [d for d in self if d.spec.name == name]


def _shown(name: str) -> str:
    """A caller's word, cut so that an error message stays short."""
    return repr(name if len(name) <= 80 else f"{name[:80]}...")
