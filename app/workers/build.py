"""Builds the loop that a worker runs, from what it was told to load. Slow: reads the weights."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from app.core.clock import MonotonicClock
from app.core.errors import CannotLoad
from app.core.tensors import Signature
from app.runtimes.base import RemoteRuntime, StreamPlan
from app.runtimes.catalogue import runtime_class
from app.scheduling.batcher import Batcher
from app.scheduling.calibrate import DOCUMENTS, TEXTS
from app.scheduling.engine import StepScheduler
from app.tasks.base import FitsModel, ReadsModel
from app.tasks.catalogue import build_task, task_info
from app.workers.calibration import load_calibrated, uncalibrated
from app.workers.forwarding import ForwardingLoop
from app.workers.generating import GeneratingLoop
from app.workers.lease import LeaseClient
from app.workers.messages import BatchRan, Load, WireItem
from app.workers.one_shot import OneShotLoop
from app.workers.replies import Announce, AnnounceRemote, Reply

MAX_SEQUENCES = 64

Measuring = Callable[[], AbstractContextManager[None]]


class WorkLoop(Protocol):
    """What runs the items; one per shape of task."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def backlog_ms(self) -> float | None: ...

    def submit(self, items: Iterable[WireItem]) -> None: ...

    def cancel(self, ids: Iterable[int]) -> None: ...

    def take_batches(self) -> list[BatchRan]: ...

    async def run(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedFacts:
    """max_tokens: longest input, None where tokens are not what it takes; shown: how the machine
    is used, for people.

    refused: versions whose task could not be built, with the reason. signature: of a model that
    takes tensors. outage: why a server behind it does not serve; empty: it does, or there is none.
    """

    max_tokens: int | None
    shown: dict[str, Any]
    refused: dict[str, str]
    signature: dict[str, Any] = field(default_factory=dict)
    outage: str = ""


def build_loop(
    load: Load, lease: LeaseClient, reply: Reply, announce: AnnounceRemote, measuring: Measuring
) -> tuple[WorkLoop, LoadedFacts]:
    """measuring: holds all threads of the CPU budget while the machine is measured.

    Raises CannotLoad when files, options or tasks do not fit together.
    """
    shapes = {task_info(version.task, load.kind).shape for version in load.versions}
    if shapes == {"one_shot"}:
        return _one_shot(load, lease, reply, announce, measuring)
    if shapes == {"generating"}:
        return _generating(load, lease, reply, announce)
    if shapes == {"remote"}:
        return _remote(load, reply, announce)
    raise CannotLoad(f"one worker cannot serve tasks of shapes {sorted(shapes)}")


def _one_shot(
    load: Load, lease: LeaseClient, reply: Reply, announce: Announce, measuring: Measuring
) -> tuple[WorkLoop, LoadedFacts]:
    tasks, refused = _tasks(load)
    make = runtime_class(load.runtime, load.kind)

    def build(plan: StreamPlan) -> Any:
        return make(load.files, plan=plan, **load.options)

    traffic = DOCUMENTS if load.kind == "sequences" else TEXTS
    runtime, calibration = (
        load_calibrated(
            build,
            Path(load.calibration_path),
            load.cpu_threads,
            load.max_batch_size,
            measuring,
            traffic,
        )
        if load.calibration_path
        else uncalibrated(build, load.cpu_threads)
    )
    signature: Signature | None = getattr(runtime, "signature", None)
    refused |= _take_out_misfits(tasks, signature)
    limits = calibration.limits(load.max_batch_size, load.batch_timeout_ms / 1000, traffic)
    work = OneShotLoop(
        runtime=runtime,
        tasks=tasks,
        batcher=Batcher(limits, calibration.cost),
        lease=lease,
        reply=reply,
        announce=announce,
        clock=MonotonicClock(),
    )
    shown = {
        "streams": calibration.streams,
        "threads_per_stream": calibration.threads,
        "max_batch_rows": limits.max_rows,
        "max_padded_tokens": limits.max_padded_tokens,
        "predicted_tokens_per_s": round(calibration.tokens_per_s),
        "disturbed": calibration.is_disturbed,
    }
    if signature is not None and load.kind == "tensors":
        return work, LoadedFacts(None, shown, refused, signature.describe())
    return work, LoadedFacts(runtime.tokenizer.max_tokens, shown, refused)


def _generating(
    load: Load, lease: LeaseClient, reply: Reply, announce: Announce
) -> tuple[WorkLoop, LoadedFacts]:
    tasks, refused = _tasks(load)
    make = runtime_class(load.runtime, load.kind)
    plan = StreamPlan(streams=1, threads=load.cpu_threads)
    prepared = Path(load.prepared_path) if load.prepared_path else None
    runtime = make(load.files, plan=plan, prepared=prepared, **load.options)
    work = GeneratingLoop(
        runtime=runtime,
        tasks=tasks,
        scheduler=StepScheduler(MAX_SEQUENCES, runtime.max_running_tokens),
        lease=lease,
        reply=reply,
        announce=announce,
        clock=MonotonicClock(),
    )
    shown = {
        "threads": plan.threads,
        "max_sequences": MAX_SEQUENCES,
        "max_running_tokens": runtime.max_running_tokens,
    }
    return work, LoadedFacts(runtime.tokenizer.max_tokens, shown, refused)


def _remote(load: Load, reply: Reply, announce: AnnounceRemote) -> tuple[WorkLoop, LoadedFacts]:
    tasks, refused = _tasks(load)
    make = runtime_class(load.runtime, load.kind)

    async def ask_once() -> str:
        upstream = make(load.files, **load.options)
        try:
            problem: str = await upstream.problem()
            return problem
        finally:
            await upstream.close()

    outage = asyncio.run(ask_once())
    runtime: RemoteRuntime = make(load.files, **load.options)
    work = ForwardingLoop(
        runtime=runtime,
        tasks=tasks,
        reply=reply,
        announce=announce,
        clock=MonotonicClock(),
        outage=outage,
    )
    shown = {"max_concurrent": runtime.options.max_concurrent}
    return work, LoadedFacts(None, shown, refused, outage=outage)


def _tasks(load: Load) -> tuple[dict[str, Any], dict[str, str]]:
    """One task per version, and why others have none; a further file comes as `<role>_file`."""
    tasks: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for version in load.versions:
        files = {f"{role}_file": path for role, path in version.files.items()}
        try:
            task = build_task(version.task, load.kind, **version.options, **files)
            if isinstance(task, ReadsModel):
                task.read_model(load.files)
            tasks[version.key] = task
        except CannotLoad as error:
            refused[version.key] = str(error)
    if not tasks:
        raise CannotLoad("; ".join(refused.values()))
    return tasks, refused


def _take_out_misfits(tasks: dict[str, Any], signature: Signature | None) -> dict[str, str]:
    """Tasks that do not fit the graph leave `tasks`; why, by version."""
    refused: dict[str, str] = {}
    for key, task in list(tasks.items()):
        if signature is None or not isinstance(task, FitsModel):
            continue
        try:
            task.fit(signature)
        except CannotLoad as error:
            refused[key] = str(error)
            del tasks[key]
    if not tasks:
        raise CannotLoad("; ".join(refused.values()))
    return refused
