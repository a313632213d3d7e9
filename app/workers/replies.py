"""What a worker's loop answers, in the form that crosses to the server."""

from collections.abc import Callable, Sequence

from app.core.errors import ServingError
from app.core.types import Answer
from app.workers.messages import Ended, Health, ItemDone, ItemFailed, Pieces, Started

Reply = Callable[[Sequence[ItemDone | ItemFailed]], None]
Announce = Callable[[Started | Ended | Pieces], None]
"""Says what runs and what that has written. `Started` has left the process when it returns."""

Announcement = Started | Ended | Pieces | Health
AnnounceRemote = Callable[[Announcement], None]
"""The same of what another server runs, and whether that serves."""


def failed(item_id: int, error: ServingError) -> ItemFailed:
    return ItemFailed(item_id, error.code, str(error))


def done(
    item_id: int, answer: Answer, *, arrived: float, started: float | None, finished: float | None
) -> ItemDone:
    """Times in seconds of the worker's clock. started, finished: None where nothing had to run."""
    started = arrived if started is None else started
    finished = started if finished is None else finished
    return ItemDone(
        id=item_id,
        value=answer.value,
        metadata=dict(answer.metadata),
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        queue_ms=(started - arrived) * 1000,
        compute_ms=(finished - started) * 1000,
    )
