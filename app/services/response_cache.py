"""Answers that were given before, bounded in bytes; the least recently used leave first.

Holds successful answers of deterministic requests, never an error. They are kept encoded: that is
what makes their size known and a third of what the objects take, and nobody can change one that
others will get. Nothing makes an answer stale: a version loads the same files as long as the server
lives. Whoever changes that puts what was loaded into the key (`key_of_work`).
"""

from collections.abc import Callable

import msgspec
from cachetools import LRUCache

from app.core.types import Answer, Done

ENTRY_BYTES = 300  # of an entry beside the answer itself: key, two tables, objects

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Answer)


class ResponseCache:
    """on_change: is told the bytes held, and how many answers had to leave, after each change."""

    def __init__(self, max_bytes: int, on_change: Callable[[int, int], None]) -> None:
        self._answers = _Answers(max_bytes, getsizeof=_bytes_of)
        self._on_change = on_change

    def get(self, key: bytes) -> Done | None:
        """The answer as one that took no time, or None."""
        encoded = self._answers.get(key)
        return None if encoded is None else Done(_decoder.decode(encoded), is_cached=True)

    def put(self, key: bytes, answer: Answer) -> None:
        """An answer that is larger than the whole cache is not kept."""
        encoded = bytes(
            memoryview(_encoder.encode(answer))
        )  # a copy, without spare room at its end
        if _bytes_of(encoded) > self._answers.maxsize:
            return
        before = self._answers.evicted
        self._answers[key] = encoded
        self._on_change(int(self._answers.currsize), self._answers.evicted - before)


class _Answers(LRUCache[bytes, bytes]):
    """Counts those that leave for others."""

    evicted = 0

    def popitem(self) -> tuple[bytes, bytes]:
        self.evicted += 1
        return super().popitem()


def _bytes_of(encoded: bytes) -> int:
    return ENTRY_BYTES + len(encoded)
