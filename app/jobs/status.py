"""What a job is, where it may be, and how it gets from one place to the next.

    submitted -> queued -> running -> succeeded, failed, cancelled, expired
                   ^  ^       |
                   |  |       |-- given back, or its lease ran out; failed after too many of them
                   |  '-------'
                   '- delayed <- cannot be run now: tried again at `run_at`

A lease is not a deadline: the lease says whether somebody still works on the job, the deadline
until when anybody wants it. Every claim raises the fence, and whoever holds an older one changes
nothing.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.core.types import Priority


class JobState(StrEnum):
    """Where a job is. Stored as text, so a name here is a promise to old databases."""

    QUEUED = "queued"  #: waits for its turn
    DELAYED = "delayed"  #: waits for `run_at`; callers see it as queued
    RUNNING = "running"  #: somebody holds its lease
    SUCCEEDED = "succeeded"  #: has a result
    FAILED = "failed"  #: has an error
    CANCELLED = "cancelled"  #: stopped on request
    EXPIRED = "expired"  #: its deadline passed

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def shown(self) -> "JobState":
        """What callers are told."""
        return JobState.QUEUED if self is JobState.DELAYED else self


_ENDS = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED},
)
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.DELAYED: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.RUNNING: _ENDS | {JobState.QUEUED, JobState.DELAYED},
    **dict.fromkeys(_ENDS, frozenset()),
}
SHOWN = tuple(dict.fromkeys(state.shown for state in JobState))


def new_job_id() -> str:
    """`job_` and 32 hexadecimal digits that nobody can guess; later ones are greater."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom to tell of a job's end. secret: what the message is signed with."""

    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be kept. request: bytes that whoever runs it understands; inputs: how many there are
    in it, which is what callers' shares are counted in. model: None where it asks several."""

    caller: str
    endpoint: str
    request: bytes
    timeout_s: float
    inputs: int = 1
    model: str | None = None
    priority: Priority = Priority.NORMAL
    request_id: str = ""
    webhook: Webhook | None = None
    id: str = field(default_factory=new_job_id)


@dataclass(frozen=True, slots=True)
class OnceKey:
    """A caller's name for a request that is to have effect once. digest: of the request."""

    caller: str
    route: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job under a lease of ours. fence: what every change of it must name. left_s: until its
    deadline; waited_s: since it was submitted. done, failed: how many inputs have been answered
    before, see `JobStore.parts`, and how many of them failed.
    """

    id: str
    fence: int
    attempts: int
    caller: str
    priority: Priority
    endpoint: str
    request: bytes
    inputs: int
    done: int
    failed: int
    waited_s: float
    left_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job failed, or waits to be tried again."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. result: JSON, of one that succeeded."""

    state: JobState
    result: bytes | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """All that is known of a job but its request and its result. Times are Unix seconds."""

    id: str
    caller: str
    state: JobState
    endpoint: str
    model: str | None
    priority: Priority
    inputs: int
    done: int
    failed: int
    attempts: int
    is_cancelling: bool
    problem: Problem | None
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    run_at: float | None
    deadline_at: float
    expires_at: float | None
    result_bytes: int | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """What the renewal of leases told: which jobs are ours no more, which are to be stopped."""

    lost: frozenset[str]
    cancelled: frozenset[str]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did. returned: to the queue, since their leases had run out; dead: failed, since
    that had happened too often; expired: past their deadlines; deleted: kept long enough."""

    returned: int = 0
    dead: int = 0
    expired: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Depth:
    """Jobs that wait, by class, and how long the oldest of each has waited in seconds."""

    waiting: Mapping[Priority, int]
    oldest_s: Mapping[Priority, float]
    running: int
