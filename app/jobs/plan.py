"""The port of what jobs mean: from bytes of a request to inputs that are run, and to a result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from app.jobs.status import Claimed, Ending


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one input, packed."""

    body: bytes
    is_failure: bool


class Plan(Protocol):
    """A job whose request was read."""

    @property
    def inputs(self) -> int:
        """How many there are."""

    async def run(self, position: int, left_s: float) -> Part:
        """Raises TryLater where it cannot be run now, DeadlineExceeded after `left_s`."""

    def ending(self, parts: Mapping[int, bytes]) -> Ending:
        """From what became of all inputs."""


class Planner(Protocol):
    def plan(self, job: Claimed) -> Plan:
        """Raises ServingError for a request that means nothing to this server any more."""

    @property
    def can_run(self) -> bool:
        """Whether it makes sense to begin with anything."""
