"""Texts between their worker and their reader: pieces wait here, as one of each text, until they
are taken.

However slow the reader, no more than `MOST_HELD_BYTES` wait: then the stream is broken off. A
reader that takes nothing at all is ended earlier by the edge (ANSWER_TIMEOUT_S).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import Cancelled
from app.core.types import Piece

MOST_HELD_BYTES = 64 * 2**10
TOO_SLOW = f"the answer was not read: {MOST_HELD_BYTES // 2**10} KiB of it waited to be sent"


@dataclass(slots=True)
class _Waiting:
    """Pieces of one text that nobody has taken."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[bytes] = field(default_factory=list)
    size: int = 0
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """No piece of the request comes any more."""

    request: int


class PieceBuffer:
    """One writer, one reader, both on the loop. The room is that of all texts together."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, int], _Waiting] = {}  # the longest waiting first
        self._ended: list[int] = []
        self._bytes = 0
        self._news = asyncio.Event()
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def put(self, piece: Piece, request: int = 0) -> bool:
        """False if there is no room: the reader is too slow."""
        text = piece.text
        size = len(text) if text.isascii() else len(text.encode())
        size += sum(map(len, piece.logprobs))
        if self._bytes + size > MOST_HELD_BYTES:
            return False
        waiting = self._waiting.setdefault((request, piece.index), _Waiting())
        waiting.texts.append(text)
        waiting.tokens += piece.tokens
        waiting.logprobs += piece.logprobs
        waiting.size += size
        waiting.finish_reason = piece.finish_reason
        self._bytes += size
        self._news.set()
        return True

    def end(self, request: int) -> None:
        """Nothing of this one comes any more."""
        self._ended.append(request)
        self._news.set()

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._news.set()

    async def take(self) -> Piece | Ended | None:
        """All that waits of one text, as soon as there is something; the end of a request behind
        its last piece; None once all is closed and taken."""
        await self._news.wait()
        taken = self._next_end() or self._next_piece()
        if not (self._is_closed or self._waiting or self._ended):
            self._news.clear()
        return taken

    def _next_end(self) -> Ended | None:
        growing = {request for request, _ in self._waiting}
        for request in self._ended:
            if request not in growing:
                self._ended.remove(request)
                return Ended(request)
        return None

    def _next_piece(self) -> Piece | None:
        if not self._waiting:
            return None
        request, index = place = next(iter(self._waiting))
        waiting = self._waiting.pop(place)
        self._bytes -= waiting.size
        text, logprobs = "".join(waiting.texts), tuple(waiting.logprobs)
        return Piece(text, waiting.tokens, index, logprobs, request, waiting.finish_reason)


def whole(value: Any, tokens: int, request: int = 0) -> list[Piece]:
    """An answer that was not written in pieces: each text as one; nothing of other values.

    The tokens of several texts are only known together, and are told with the last.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        return []
    last = len(texts) - 1
    return [
        Piece(text, tokens * (at == last), at, request=request) for at, text in enumerate(texts)
    ]


def too_slow() -> Cancelled:
    return Cancelled(TOO_SLOW)
