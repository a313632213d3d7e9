"""What a worker is given by the server: bounds, what to load, and what it shares with others."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from app.core.clock import Clock
from app.core.metrics import Metrics
from app.workers.cpu import CpuBudget
from app.workers.messages import Load
from app.workers.turns import LoadingTurns
from app.workers.watchdog import WatchLimits


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bounds of one worker. grace_s: for what was accepted by a version that is unloaded."""

    start_timeout_s: float
    max_crashes: int
    max_queue_items: int
    watch: WatchLimits
    grace_s: float


@dataclass(frozen=True, slots=True)
class Preparation:
    """What to load; refused: versions that cannot be served, with the reason.

    facts: what is known of the artefact beside the catalog, for people.
    """

    load: Load
    refused: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


Prepare = Callable[[Callable[[str], None]], Awaitable[Preparation]]
"""Brings what a worker loads; its argument may be told, from any thread, what it is at."""


@dataclass(frozen=True, slots=True)
class Means:
    """limits: the same for all workers of a server. command: starts a process."""

    limits: WorkerLimits
    cpu: CpuBudget
    metrics: Metrics
    clock: Clock
    turns: LoadingTurns
    command: tuple[str, ...]
