"""Work that need not be done again: an answer that is kept, or equal work in flight."""

import asyncio

from app.core.clock import Clock
from app.core.metrics import Metrics
from app.core.types import Asker, Done, Outcome
from app.models.spec import ModelSpec
from app.services.response_cache import ResponseCache
from app.services.shared_work import SharedWork, Submit


class Reuse:
    """cache: None where no answer is kept."""

    def __init__(self, cache: ResponseCache | None, metrics: Metrics, clock: Clock) -> None:
        self._cache = cache
        self._metrics = metrics
        self._shared = SharedWork(clock)

    def join(
        self, spec: ModelSpec, key: bytes, asker: Asker, limit_ms: float, submit: Submit
    ) -> "asyncio.Future[Outcome]":
        """An answer that is kept, or work in flight, or work that begins now.

        Work is shared by those who take turns together: else a single text would wait behind all
        of another caller's, or of a worse class, for being among them.
        """
        cache = self._cache if spec.cache else None
        if cache is not None:
            kept = cache.get(key)
            self._metrics.looked_up(spec.name, spec.version, kept is not None)
            if kept is not None:
                return _settled(kept)
            submit = _keeping(submit, cache, key)
        in_turn = (key, asker)
        if self._shared.is_in_flight(in_turn):
            self._metrics.shared(spec.name, spec.version)
        return self._shared.join(in_turn, limit_ms, submit)


def _settled(outcome: Outcome) -> "asyncio.Future[Outcome]":
    wait: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    wait.set_result(outcome)
    return wait


def _keeping(submit: Submit, cache: ResponseCache, key: bytes) -> Submit:
    """`submit`, whose answer goes into the cache however many wait for it."""

    def keep(ended: "asyncio.Future[Outcome]") -> None:
        outcome = None if ended.cancelled() else ended.result()
        if isinstance(outcome, Done):
            cache.put(key, outcome.answer)

    def submit_and_keep(left_ms: float) -> "asyncio.Future[Outcome]":
        wait = submit(left_ms)
        wait.add_done_callback(keep)
        return wait

    return submit_and_keep
