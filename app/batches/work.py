"""The port of what lines mean: from the body of a request to what the live route would answer."""

from collections.abc import Sequence
from typing import Any, Protocol

from app.batches.results import Reply
from app.batches.status import Batch, Problem


class Asked(Protocol):
    """The body of a line, read."""

    @property
    def inputs(self) -> int:
        """How many there are in it."""

    async def run(self, position: int, left_s: float) -> Any:
        """What became of one, for `reply`. Raises TryLater where it cannot be run now,
        DeadlineExceeded after `left_s`."""

    def reply(self, results: Sequence[Any], request_id: str) -> Reply:
        """From what became of all inputs, in order."""


class Work(Protocol):
    @property
    def can_run(self) -> bool:
        """Whether it makes sense to begin with anything."""

    def model_problem(self, endpoint: str, model: str) -> Problem | None:
        """Why the endpoint cannot ask it, whether or not it serves now."""

    def read(self, endpoint: str, body: bytes, batch: Batch) -> Asked | Reply:
        """Or the refusal of a body that is wrong."""
