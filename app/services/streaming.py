"""A text between its worker and its reader: pieces wait here, as one, until they are taken.

However slow the reader, no more than `MOST_HELD_BYTES` wait: then the stream is broken off. A
reader that takes nothing at all is ended earlier by the edge (ANSWER_TIMEOUT_S).
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from app.core.errors import Cancelled

MOST_HELD_BYTES = 64 * 2**10
TOO_SLOW = f"the answer was not read: {MOST_HELD_BYTES // 2**10} KiB of it waited to be sent"


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer's text is longer by, and how many tokens that is.

    index: which text, where several were asked for.
    """

    text: str
    tokens: int
    index: int = 0


class PieceBuffer:
    """One writer, one reader, both on the loop."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens = 0
        self._bytes = 0
        self._news = asyncio.Event()
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def put(self, text: str, tokens: int) -> bool:
        """False if there is no room: the reader is too slow."""
        size = len(text) if text.isascii() else len(text.encode())
        if self._bytes + size > MOST_HELD_BYTES:
            return False
        self._texts.append(text)
        self._tokens += tokens
        self._bytes += size
        self._news.set()
        return True

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._news.set()

    async def take(self) -> Piece | None:
        """All that waits, as soon as there is something; None once it is closed and empty."""
        await self._news.wait()
        if not self._texts:
            return None
        piece = Piece("".join(self._texts), self._tokens)
        self._texts, self._tokens, self._bytes = [], 0, 0
        if not self._is_closed:
            self._news.clear()
        return piece


def whole(value: Any, tokens: int) -> list[Piece]:
    """An answer that was not written in pieces: each text as one; nothing of other values.

    The tokens of several texts are only known together, and are told with the last.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        return []
    last = len(texts) - 1
    return [Piece(text, tokens * (at == last), at) for at, text in enumerate(texts)]


def too_slow() -> Cancelled:
    return Cancelled(TOO_SLOW)
