"""From a catalog to running workers: groups versions by what they share, fetches, loads.

Versions with the same artefact, runtime and options live in one worker, so that the weights are
held once and their rows share batches. Each group is on its own: one that cannot be fetched or
loaded fails, the others serve.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from platform import machine

import msgspec
import structlog

from app.core.clock import Clock
from app.core.config import Settings
from app.core.errors import FileUnavailable
from app.core.metrics import Metrics
from app.models.registry import Deployment, Registry
from app.models.spec import ModelFile, ModelSpec
from app.models.store import ModelStore
from app.tasks.catalogue import task_info
from app.workers.cpu import CpuBudget
from app.workers.messages import HostedVersion, Load
from app.workers.supervisor import Preparation, ServingState, Supervisor, SupervisorLimits
from app.workers.turns import LoadingTurns

log = structlog.get_logger()

CALIBRATION_FORMAT = "2"  # raise it when the same measurement would lead elsewhere


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers of a server, and the registry over them."""

    registry: Registry
    supervisors: tuple[Supervisor, ...]
    store: ModelStore

    @property
    def unanswered(self) -> int:
        return sum(supervisor.unanswered for supervisor in self.supervisors)

    async def run(self) -> None:
        """Every worker's whole life; returns when all have ended for good."""
        async with asyncio.TaskGroup() as tasks:
            for supervisor in self.supervisors:
                tasks.create_task(supervisor.run())

    async def stop(self) -> None:
        self.store.stop()
        async with asyncio.TaskGroup() as tasks:
            for supervisor in self.supervisors:
                tasks.create_task(supervisor.stop())


def build_fleet(
    specs: Sequence[ModelSpec],
    store: ModelStore,
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
) -> Fleet:
    """Nothing is fetched or started before `Fleet.run`."""
    cpu = CpuBudget(settings.cpu_threads, metrics.cpu)
    turns = LoadingTurns()
    fetching = asyncio.Lock()  # files come one after the other; each has the whole line
    deployments: list[Deployment] = []
    supervisors: list[Supervisor] = []
    for group in group_by_artefact(specs):
        supervisor = Supervisor(
            group[0].artefact.name,
            _preparation(group, store, settings, fetching),
            limits=SupervisorLimits(
                start_timeout_s=settings.worker_start_timeout_s,
                max_crashes=settings.worker_max_restarts,
                max_queue_items=settings.max_queue_items,
            ),
            cpu=cpu,
            metrics=metrics,
            clock=clock,
            turns=turns,
            on_change=_readiness_metric(group, metrics),
        )
        supervisors.append(supervisor)
        deployments += [Deployment(spec, supervisor) for spec in group]
        for spec in group:
            metrics.add_version(spec.name, spec.version, supervisor.name)
    order = {spec.key: index for index, spec in enumerate(specs)}
    deployments.sort(key=lambda deployment: order[deployment.spec.key])
    return Fleet(Registry(deployments), tuple(supervisors), store)


def group_by_artefact(specs: Sequence[ModelSpec]) -> list[list[ModelSpec]]:
    """Versions that can share a worker, in the order of the catalog."""
    groups: dict[tuple[str, str, str], list[ModelSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.sharing_key, []).append(spec)
    return list(groups.values())


def _readiness_metric(group: Sequence[ModelSpec], metrics: Metrics) -> Callable[[Supervisor], None]:
    def on_change(supervisor: Supervisor) -> None:
        for spec in group:
            is_ready = supervisor.state_of(spec.key)[0] is ServingState.READY
            metrics.version_ready(spec.name, spec.version, is_ready)

    return on_change


def _preparation(
    group: Sequence[ModelSpec], store: ModelStore, settings: Settings, fetching: asyncio.Lock
) -> Callable[[], Awaitable[Preparation]]:
    async def prepare() -> Preparation:
        async with fetching:
            return await asyncio.to_thread(_fetch, group, store, settings)

    return prepare


def _fetch(group: Sequence[ModelSpec], store: ModelStore, settings: Settings) -> Preparation:
    """Files of the artefact, which all need, and of each version, which may fail alone.

    Raises FileUnavailable when nothing can be served.
    """
    paths = {file: store.fetch(file) for file in group[0].artefact.files}
    refused: dict[str, str] = {}
    served: list[ModelSpec] = []
    for spec in group:
        try:
            paths.update((file, store.fetch(file)) for file in spec.task_files)
            served.append(spec)
        except FileUnavailable as error:
            log.error("version_failed", version=spec.key, reason=str(error))
            refused[spec.key] = str(error)
    if not served:
        raise FileUnavailable("; ".join(refused.values()))
    return Preparation(_load_message(served, paths, store.root, settings), refused)


def _load_message(
    group: Sequence[ModelSpec], paths: dict[ModelFile, Path], root: Path, settings: Settings
) -> Load:
    first = group[0]
    return Load(
        artefact=first.artefact.name,
        files=_by_role(first.artefact.files, paths),
        runtime=first.runtime,
        options=dict(first.runtime_options),
        versions=[
            HostedVersion(
                key=spec.key,
                task=spec.task,
                options=dict(spec.task_options),
                files=_by_role(spec.task_files, paths),
            )
            for spec in group
        ],
        cpu_threads=settings.cpu_threads,
        max_batch_size=settings.max_batch_size,
        batch_timeout_ms=settings.batch_timeout_ms,
        calibration_path=_calibration_path(first, root, settings),
        prepared_path=str(root / "prepared" / _key_of(_shaped_by_files(first))),
        log_format=settings.log_format,
        log_level=settings.effective_log_level,
    )


def _by_role(files: Sequence[ModelFile], paths: dict[ModelFile, Path]) -> dict[str, str]:
    return {file.role: str(paths[file]) for file in files}


def _calibration_path(spec: ModelSpec, root: Path, settings: Settings) -> str:
    if task_info(spec.task).shape == "generating":
        return ""  # the engine batches by itself; there is nothing to choose
    return str(root / "calibration" / f"{_calibration_key(spec, settings)}.json")


def _calibration_key(spec: ModelSpec, settings: Settings) -> str:
    """Everything that shapes a measurement: files, runtime, options, limits, processor."""
    return _key_of(
        [
            CALIBRATION_FORMAT,
            *_shaped_by_files(spec),
            sorted(spec.runtime_options.items()),
            settings.cpu_threads,
            settings.max_batch_size,
            _processor(),
        ]
    )


def _shaped_by_files(spec: ModelSpec) -> list[object]:
    """What a runtime makes of the files depends on them and on its library."""
    files = [file.sha256 for file in spec.artefact.files]
    return [files, spec.runtime, package_version("openvino-genai")]


def _key_of(parts: Sequence[object]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return machine()
    return next((line for line in lines if line.startswith("model name")), machine())
