"""The port of the store of jobs: what it promises, whatever keeps it.

Every method raises StorageUnavailable where the database cannot be used now; whether a change was
made is then unknown, and all of them may be called again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.jobs.status import (
    Claimed,
    Depth,
    Ending,
    JobState,
    JobView,
    NewJob,
    OnceKey,
    Problem,
    Renewed,
    Swept,
)

CHUNK = 1000  # most rows that one statement on many changes


@dataclass(frozen=True, slots=True)
class Limits:
    """max_attempts: claims after which a job whose lease runs out has failed. keep_s: how long a
    job is kept after its end. once_s: how long a caller's key is remembered."""

    max_attempts: int = 5
    keep_s: float = 259_200.0
    once_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a caller's jobs, the latest first. before: the id that the page begins behind."""

    caller: str
    limit: int
    state: JobState | None = None
    model: str | None = None
    before: str | None = None


class JobStore(Protocol):
    async def submit(self, jobs: Sequence[NewJob], once: OnceKey | None = None) -> list[str]:
        """Keep all of them or none; returns their ids when they are durable.

        once: for a single job; where its caller has used the key before, the id of that job.
        Raises IdempotencyKeyReused.
        """

    async def claim(self, owner: str, count: int, lease_s: float) -> list[Claimed]:
        """Up to `count` jobs whose turn it is, under leases of `lease_s`."""

    async def renew(self, held: Mapping[str, int], lease_s: float) -> Renewed:
        """held: the fence of each job."""

    async def note_parts(
        self, job: Claimed, parts: Mapping[int, bytes], *, done: int, failed: int
    ) -> bool:
        """Keep answers to some of the inputs, by position. False where the lease is lost.

        done and failed count all inputs so far."""

    async def parts(self, job_id: str) -> dict[int, bytes]:
        """What was kept so."""

    async def finish(self, job: Claimed, ending: Ending) -> bool:
        """False where the lease is lost: nothing has changed then."""

    async def release(self, held: Mapping[str, int]) -> int:
        """Give jobs back that were not run, as if they had not been claimed."""

    async def delay(self, job: Claimed, delay_s: float, why: Problem) -> bool:
        """The job cannot be run now; it is tried again, and the attempt does not count."""

    async def cancel(self, caller: str, job_id: str) -> JobView | None:
        """End the job, or have it ended by whoever runs it. None where the caller has no such."""

    async def get(self, caller: str, job_id: str) -> JobView | None: ...

    async def states(self, job_ids: Sequence[str]) -> dict[str, tuple[JobState, int]]:
        """State and count of answered inputs of each that there is."""

    async def page(self, page: Page) -> list[JobView]: ...

    async def result(self, job_id: str) -> bytes | None:
        """Of a job that succeeded."""

    async def sweep(self) -> Swept:
        """Take back what nobody works on any more, end what is past its deadline, and delete what
        was kept long enough; a thousand of each at most."""

    async def recover(self, owner: str) -> int:
        """Take back what an owner held that is known to have ended."""

    async def has_due(self) -> bool:
        """Whether `claim` would find something."""

    async def depth(self) -> Depth: ...


class OnceAnswers(Protocol):
    async def begin(self, once: OnceKey) -> bytes | None:
        """The answer that was kept, or None: it is ours to make, and to keep or forget.

        Raises IdempotencyKeyReused, StillRunning, StorageUnavailable.
        """

    async def keep(self, once: OnceKey, body: bytes) -> None:
        """For whoever sends the key again."""

    async def forget(self, once: OnceKey) -> None:
        """There is no answer: the next with the key makes one."""
