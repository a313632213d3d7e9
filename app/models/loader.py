"""From a catalog to running workers: groups versions by what they share, fetches, loads.

Versions with the same artefact, runtime and options live in one worker, so that the weights are
held once and their rows share batches. Each group is on its own: one that cannot be fetched or
loaded fails, the others serve.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from app.core.clock import Clock
from app.core.config import Settings
from app.core.metrics import Metrics
from app.models.preparation import Stores, is_at_hand, may_ask, prepare, seek
from app.models.registry import Deployment, Registry
from app.models.spec import ModelSpec
from app.workers.cpu import CpuBudget
from app.workers.handle import WORKER_COMMAND
from app.workers.means import Means, Preparation, WorkerLimits
from app.workers.status import ServingState
from app.workers.supervisor import Supervisor
from app.workers.turns import LoadingTurns
from app.workers.watchdog import WatchLimits


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers of a server, and the registry over them."""

    registry: Registry
    supervisors: tuple[Supervisor, ...]
    stores: Stores

    @property
    def unanswered(self) -> int:
        return sum(supervisor.unanswered for supervisor in self.supervisors)

    async def run(self) -> None:
        """Every worker's whole life; returns when all have ended for good."""
        async with asyncio.TaskGroup() as tasks:
            for supervisor in self.supervisors:
                tasks.create_task(supervisor.run())

    def drain(self) -> None:
        """Before `stop`: what was accepted is still answered, nothing else needs a worker."""
        for supervisor in self.supervisors:
            supervisor.drain()

    async def stop(self) -> None:
        self.stores.stop()
        async with asyncio.TaskGroup() as tasks:
            for supervisor in self.supervisors:
                tasks.create_task(supervisor.stop())


def build_fleet(
    specs: Sequence[ModelSpec],
    stores: Stores,
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
) -> Fleet:
    """Nothing is fetched or started before `Fleet.run`."""
    means = _means(settings, metrics, clock)
    one_by_one = _OneByOne()
    deployments: list[Deployment] = []
    supervisors: list[Supervisor] = []
    for group in group_by_artefact(specs):
        supervisor = Supervisor(
            group[0].artefact.name,
            {spec.key: spec.load for spec in group},
            _preparation(group, stores, settings, one_by_one),
            means=means,
            on_change=_state_metrics(group, metrics),
        )
        supervisors.append(supervisor)
        deployments += [Deployment(spec, supervisor) for spec in group]
        for spec in group:
            metrics.add_version(spec.name, spec.version, supervisor.name, is_wanted=spec.load)
    order = {spec.key: index for index, spec in enumerate(specs)}
    deployments.sort(key=lambda deployment: order[deployment.spec.key])
    return Fleet(Registry(deployments), tuple(supervisors), stores)


def _means(settings: Settings, metrics: Metrics, clock: Clock) -> Means:
    limits = WorkerLimits(
        start_timeout_s=settings.worker_start_timeout_s,
        max_crashes=settings.worker_max_restarts,
        max_queue_items=settings.max_queue_items,
        watch=WatchLimits(
            stuck_after_s=settings.worker_stuck_after_s,
            memory_bytes=settings.worker_memory_limit_mb * 2**20,
        ),
        grace_s=settings.shutdown_grace_s,
    )
    cpu = CpuBudget(settings.cpu_threads, metrics.cpu)
    return Means(limits, cpu, metrics, clock, LoadingTurns(), WORKER_COMMAND)


def group_by_artefact(specs: Sequence[ModelSpec]) -> list[list[ModelSpec]]:
    """Versions that can share a worker, in the order of the catalog."""
    groups: dict[tuple[str, str, str], list[ModelSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.sharing_key, []).append(spec)
    return list(groups.values())


def _state_metrics(group: Sequence[ModelSpec], metrics: Metrics) -> Callable[[Supervisor], None]:
    def on_change(supervisor: Supervisor) -> None:
        for spec in group:
            state, _ = supervisor.state_of(spec.key)
            metrics.version_ready(spec.name, spec.version, state is ServingState.READY)
            metrics.version_wanted(spec.name, spec.version, not state.is_by_request)

    return on_change


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """What groups do one after the other. Questions are short, and wait for nothing that is made.

    fetching: and making; each has the whole line and the memory.
    """

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)


def _preparation(
    group: Sequence[ModelSpec], stores: Stores, settings: Settings, one_by_one: _OneByOne
) -> Callable[[Callable[[str], None]], Awaitable[Preparation]]:
    async def prepared(tell: Callable[[str], None]) -> Preparation:
        asks = await asyncio.to_thread(may_ask, group, stores)
        async with one_by_one.asking if asks else nullcontext():
            sought = await asyncio.to_thread(seek, group, stores)
        is_there = await asyncio.to_thread(is_at_hand, group, sought, stores)
        async with nullcontext() if is_there else one_by_one.fetching:
            return await asyncio.to_thread(prepare, group, sought, stores, settings, tell)

    return prepared
