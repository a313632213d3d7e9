"""The server: `python -m app.main`.

Start: settings, catalog, database and port are checked before anything is loaded, so that a mistake
is one line and no child. Then HTTP answers at once (health tells what is loading) while the workers
load.
Stop (SIGTERM or SIGINT): not ready, no new work, what was accepted is finished within
SHUTDOWN_GRACE_S, the workers end, exit 0. A second signal does not wait.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.api.application import NAME, VERSION, build_app
from app.api.batch_work import BatchWork
from app.api.inference import limits_of as request_limits
from app.api.job_work import Work
from app.api.jobs import webhook_body
from app.api.openai_route import VALUES_PER_REQUEST
from app.api.server import Server, allow_descriptors, build_server, open_socket
from app.batches.open import open_batches
from app.batches.running import BatchLimits
from app.core.batch_metrics import BatchMetrics
from app.core.clock import MonotonicClock
from app.core.config import Settings, load_settings
from app.core.errors import ConfigurationError
from app.core.job_metrics import JobMetrics
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.jobs.notifier import Notifier
from app.jobs.open import open_jobs
from app.jobs.runner import Runner, RunnerLimits
from app.jobs.store import Limits as StoreLimits
from app.jobs.store import OnceAnswers
from app.jobs.watch import Watch
from app.keys.accounts import Accounts
from app.keys.gate import Gate
from app.keys.service import KeyService
from app.keys.store import generation
from app.keys.usage import UsageLedger
from app.models.catalog import load_catalog, profile_path
from app.models.loader import Fleet, build_fleet
from app.models.preparation import open_stores
from app.models.progress import progress_for_stderr
from app.models.spec import ModelSpec
from app.services.batch_service import BatchService
from app.services.inference_service import InferenceService
from app.services.job_service import JobService
from app.services.model_control import ControlLimits, ModelControl
from app.services.model_service import ModelService
from app.services.response_cache import ResponseCache
from app.storage.database import READERS, Database
from app.storage.engines import Engines, open_engines
from app.storage.schema import migrate

if TYPE_CHECKING:
    from app.api.open_inference_grpc import GrpcServer

log = structlog.get_logger()

ENDS_S = 10.0  # beyond the grace time: for a worker's process to end, or to be ended


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes are given."""

    inference: InferenceService
    models: ModelService
    control: ModelControl
    metrics: Metrics
    jobs: JobService
    once: OnceAnswers
    batches: BatchService
    accounts: Accounts

    @property
    def gate(self) -> Gate:
        return self.accounts.gate

    @property
    def keys(self) -> KeyService:
        return self.accounts.keys

    @property
    def usage(self) -> UsageLedger:
        return self.accounts.usage


@dataclass(frozen=True, slots=True)
class Application:
    """One server, built and not started."""

    app: ASGIApp
    services: Services
    fleet: Fleet
    grpc: "GrpcServer | None" = None

    def refuse_new_work(self) -> None:
        self.services.models.stop()
        self.services.jobs.begin_stop()
        self.services.batches.begin_stop()
        self.services.inference.stop()
        self.fleet.drain()
        if self.grpc is not None:
            self.grpc.begin_stop()


@dataclass(frozen=True, slots=True)
class Storage:
    """The database, with our schema. generation: of its keys; 0 where none was ever made."""

    engines: Engines
    generation: int


def open_storage(settings: Settings) -> Storage:
    """Raises ConfigurationError where it cannot be used."""
    engines = open_engines(settings.database_address, READERS)
    migrate(engines)
    with engines.reader.begin() as connection:
        return Storage(engines, generation(connection))


def guarded(settings: Settings, storage: Storage) -> Settings:
    """With an address that only this machine can reach, while anybody who could would be let in
    without having been asked."""
    if storage.generation or settings.allow_anonymous or settings.is_private:
        return settings
    log.warning(
        "listening_on_loopback_only",
        reason="there is no API key, so whoever reached the server could use it",
        remedy="make one (python -m app.cli keys create NAME) or set ALLOW_ANONYMOUS=true, "
        "and start again",
    )
    return settings.model_copy(update={"host": "::1" if ":" in settings.host else "127.0.0.1"})


def create_app(settings: Settings, specs: Sequence[ModelSpec], storage: Storage) -> Application:
    """Wire everything together. The workers and the database live as long as the app's lifespan.

    Raises ConfigurationError for a GRPC_PORT, or a DATA_DIR, that cannot be had.
    """
    metrics, clock = Metrics(), MonotonicClock()
    database = Database(storage.engines)
    accounts = Accounts(
        database,
        storage.generation,
        metrics.costs,
        allows_anonymous=settings.allow_anonymous,
        is_private=settings.is_private,
    )
    stores = open_stores(settings, progress_for_stderr())
    fleet = build_fleet(specs, stores, settings, metrics, clock)
    inference = InferenceService(
        fleet.registry,
        metrics,
        clock,
        default_model=settings.default_model,
        max_text_chars=settings.max_text_chars,
        cache=_response_cache(settings, metrics),
        meter=accounts.meter,
    )
    limits = ControlLimits(settings.worker_start_timeout_s, settings.shutdown_grace_s + ENDS_S)
    control = ModelControl(fleet.registry, limits, is_allowed=settings.model_control == "explicit")
    models = ModelService(fleet.registry)
    work = Work(inference, models, request_limits(settings), lambda: models.readiness().started)
    jobs, once = _jobs(settings, database, work, metrics)
    batches = _batches(settings, database, work, metrics)
    services = Services(inference, models, control, metrics, jobs, once, batches, accounts)
    grpc = _grpc_server(services, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(fleet.run())
        jobs.start()
        batches.start()
        attending = asyncio.create_task(accounts.run())
        try:
            if grpc is not None:
                await grpc.start()
            yield
        finally:
            if grpc is not None:
                await grpc.stop()
            stops = (jobs.stop, batches.stop)
            await asyncio.gather(*(stop(settings.shutdown_grace_s) for stop in stops))
            await fleet.stop()
            await running
            attending.cancel()
            await asyncio.wait([attending])
            await accounts.close()
            await database.close()

    return Application(build_app(services, settings, lifespan=lifespan), services, fleet, grpc)


def _jobs(
    settings: Settings, database: Database, work: Work, metrics: Metrics
) -> tuple[JobService, OnceAnswers]:
    limits = StoreLimits(settings.job_max_attempts, settings.job_keep_s)
    opened = open_jobs(database, settings.data_dir, limits)
    watch, counted = Watch(), JobMetrics(metrics.registry)
    running = RunnerLimits(settings.job_max_inputs, settings.job_lease_s)
    runner = Runner(opened.store, work, opened.owner, watch, counted, running)
    private = settings.webhook_allow_private
    notifier = Notifier(opened.webhooks, webhook_body, counted, time.time, allows_private=private)
    return JobService(opened.store, runner, watch, counted, notifier), opened.once


def _batches(settings: Settings, database: Database, work: Work, metrics: Metrics) -> BatchService:
    max_values = VALUES_PER_REQUEST + settings.max_tensor_values
    of_lines = BatchWork(work.inference, work.models, work.limits, max_values, work.is_ready)
    limits = BatchLimits(
        settings.batch_max_inputs,
        settings.max_batch_lines,
        settings.max_body_bytes,
        settings.max_caller_files_bytes,
    )
    counted = BatchMetrics(metrics.registry)
    opened = open_batches(database, settings.data_dir, of_lines, limits, counted)
    keep_s, most = settings.file_keep_s, settings.max_caller_files_bytes
    return BatchService(opened.store, opened.contents, opened.runner, keep_s, most)


def _grpc_server(services: Services, settings: Settings) -> "GrpcServer | None":
    """Raises ConfigurationError. The library is loaded only where it is used."""
    if settings.grpc_port is None:
        return None
    # Workers are started by fork and exec at once; its handlers around fork only fill the log.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from app.api.open_inference_grpc import GrpcServer
    except ModuleNotFoundError as missing:
        raise ConfigurationError(f"GRPC_PORT needs the package {missing.name!r}") from missing
    return GrpcServer(services, settings, NAME, VERSION)


def _response_cache(settings: Settings, metrics: Metrics) -> ResponseCache | None:
    if not settings.response_cache_mb:
        return None
    return ResponseCache(settings.response_cache_mb * 10**6, metrics.cache_changed)


def read_catalog(settings: Settings) -> tuple[ModelSpec, ...]:
    """The versions to serve. Raises ConfigurationError."""
    specs = load_catalog(settings.model_catalog or profile_path(settings.model_profile))
    names = {spec.name for spec in specs}
    if settings.default_model not in names:
        raise ConfigurationError(
            f"DEFAULT_MODEL is {settings.default_model!r}, but the catalog has only: "
            f"{', '.join(sorted(names))}"
        )
    asleep = [spec.key for spec in specs if not spec.load]
    if asleep and settings.model_control == "none":
        raise ConfigurationError(
            f"the catalog says `load: false` for {', '.join(asleep)}, which nobody could ever load "
            "with MODEL_CONTROL=none"
        )
    return specs


async def serve(
    settings: Settings, specs: Sequence[ModelSpec], storage: Storage, listening: socket.socket
) -> None:
    """Serve until a signal comes and everything accepted is answered."""
    application = create_app(settings, specs, storage)
    server = build_server(
        application.app,
        settings,
        on_refused=application.services.metrics.observe_rejected,
        on_connections=application.services.metrics.connections,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, application, server)
    host, port = listening.getsockname()[:2]
    # What is there now stays. A collection that looks at it again takes some 50 ms in which nobody
    # is answered, and under load one comes every few seconds.
    gc.collect()
    gc.freeze()
    log.info("listening", host=host, port=port, cpu_threads=settings.cpu_threads)
    await server.serve(sockets=[listening])
    log.info("stopped")


def _on_signal(application: Application, server: Server) -> None:
    if server.should_exit:
        server.force_exit = True
        return
    log.info("stopping", unanswered=application.fleet.unanswered)
    application.refuse_new_work()
    server.should_exit = True


def main() -> int:
    """The exit status: 0 after a clean stop, 2 when the configuration is wrong."""
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.effective_log_level)
        specs = read_catalog(settings)
        allow_descriptors(settings.max_connections)
        storage = open_storage(settings)
        settings = guarded(settings, storage)
        listening = open_socket(settings.host, settings.port, silence_s=settings.client_silence_s)
    except ConfigurationError as wrong:
        sys.stderr.write(f"ai-inference-backend: {wrong}\n")
        return 2
    with listening:
        try:
            uvloop.run(serve(settings, specs, storage, listening))
        except ConfigurationError as wrong:
            sys.stderr.write(f"ai-inference-backend: {wrong}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
