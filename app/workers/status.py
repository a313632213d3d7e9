"""A worker as people see it, in `/models`, health and readiness."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.core.errors import ModelUnavailable


class ServingState(StrEnum):
    """What `/models` and readiness say of a version."""

    LOADING = "loading"  #: files are fetched, weights are read
    READY = "ready"  #: takes requests
    UNAVAILABLE = "unavailable"  #: the server behind it does not serve; `reason` says why
    STUCK = "stuck"  #: the worker does not move; it is being ended
    RESTARTING = "restarting"  #: the worker ended; a new one is on its way
    FAILED = "failed"  #: given up; `reason` says why
    UNLOADING = "unloading"  #: takes nothing new; what was accepted is finished
    UNLOADED = "unloaded"  #: known, and loaded when somebody asks for that
    STOPPING = "stopping"  #: the server is going down

    @property
    def is_by_request(self) -> bool:
        """It serves nobody because somebody wanted it so."""
        return self in (ServingState.UNLOADING, ServingState.UNLOADED)


IN_SERVICE = (ServingState.READY, ServingState.UNAVAILABLE)  # a worker lives, and takes items


def refusal(version: str, state: ServingState, reason: str) -> ModelUnavailable:
    """Of what is asked of a version that takes nothing now."""
    has_failed = state is ServingState.FAILED
    what = f"{version} has failed" if has_failed else f"{version} is {state}"
    return ModelUnavailable(
        f"{what}: {reason}" if reason else what, retry_after_s=60.0 if has_failed else 2.0
    )


@dataclass(frozen=True, slots=True)
class Status:
    """A worker as people see it. next_start: when the next one is tried, while restarting,
    or when what could not be had is asked for again, while failed."""

    state: ServingState = ServingState.LOADING
    reason: str = ""
    next_start: datetime | None = None
    pid: int | None = None
    load_s: float | None = None
    restarts: int = 0
    resident_bytes: int = 0
    waiting_rows: int = 0
    max_tokens: int | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    artefact: dict[str, Any] = field(default_factory=dict)
    signature: dict[str, Any] = field(default_factory=dict)
