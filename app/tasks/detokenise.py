"""Text while it is written: from the tokens so far to what can be said of it already.

Said is what no later token can change, and what no stop can cut off:

- A token may hold a part of a character, and some tokenizers take back whole characters when what
  follows is broken (a run of bytes is read as one). Such text waits for the token that settles it.
- The end of a text that could become one of the stops waits until it is one, or cannot be.

The pieces and what `end` returns make up exactly the text that the answer has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.inference import Tokenizer

Decode = Callable[[Sequence[int]], str]

WINDOW_TOKENS = 32  # read again with each token; reading one alone costs nearly as much
PATIENT_TOKENS = 64  # unsettled for longer, a text is looked at less and less often
UNKNOWN = "\ufffd"
RARE = "\U000f1234"  # private use: in no vocabulary as a whole


@dataclass(frozen=True, slots=True)
class TokenReader:
    """How a model's tokens become text.

    breaker: a token that spoils the run of bytes before it; None where bytes stand alone.
    """

    decode: Decode
    breaker: int | None = None

    def settled(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether more tokens only ever add to `text`, which these are."""
        if text.endswith(UNKNOWN):
            return False
        return self.breaker is None or self.decode([*token_ids, self.breaker]).startswith(text)


def reader_of(tokenizer: Tokenizer, decode: Decode) -> TokenReader:
    """Finds out how the tokenizer treats bytes that are no character."""
    (encoded,) = tokenizer.encode([RARE])
    parts = [token_id for token_id in encoded if decode([token_id])]
    if not parts or decode(parts[-1:]) != UNKNOWN:
        return TokenReader(decode)
    whole = decode(parts)
    takes_back = not decode([*parts, parts[-1]]).startswith(whole)
    return TokenReader(decode, parts[-1] if takes_back else None)


class TextStream:
    """One continuation. head: what the text has in front of it."""

    def __init__(self, reader: TokenReader, *, stops: Sequence[str] = (), head: str = "") -> None:
        self._reader = reader
        self._guard = StopGuard(stops)
        self._said: list[str] = []
        self._head = head
        self._ids: list[int] = []
        self._window = 0  # tokens before it are not read again
        self._read = 0  # tokens whose text is settled
        self._known = ""  # text of those from the window on
        self._next_look = 0

    @property
    def token_ids(self) -> Sequence[int]:
        """All so far."""
        return self._ids

    def feed(self, token_ids: Sequence[int]) -> str:
        """What can be said now; mostly the text of these tokens."""
        window = self.take(token_ids)
        return "" if window is None else self.tell(window, self._reader.decode(window))

    def take(self, token_ids: Sequence[int]) -> list[int] | None:
        """The first half of `feed`: tokens whose text the second wants, None if it is not due."""
        self._ids += token_ids
        return None if len(self._ids) < self._next_look else self._ids[self._window :]

    def tell(self, window: Sequence[int], text: str) -> str:
        """The second half."""
        piece = self._guard.pass_on(self._settle(window, text))
        if piece and not self._said:
            piece = self._head + piece
        if piece:
            self._said.append(piece)
        return piece

    def end(self, text: str) -> str | None:
        """What is left to say of the text that it became.

        None if something was said that the text does not have, which no tokenizer should cause.
        """
        said = "".join(self._said)
        return text[len(said) :] if text.startswith(said) else None

    def _settle(self, window: Sequence[int], text: str) -> str:
        known = self._known
        if (
            len(text) <= len(known)
            or not text.startswith(known)
            or not self._reader.settled(window, text)
        ):
            held = len(self._ids) - self._read
            if held > PATIENT_TOKENS:
                self._next_look = len(self._ids) + held // 4
            return ""
        piece = text[len(known) :]
        read, self._read, self._known = self._read, len(self._ids), text
        if len(window) > WINDOW_TOKENS:
            self._move_window(read, piece)
        return piece

    def _move_window(self, to: int, piece: str) -> None:
        """To where the latest piece begins, if that reads alone as it does behind the others.

        Some tokenizers drop a space in front of a text; then what is left must still be a part of
        the piece, or later text would lose its own.
        """
        known = self._reader.decode(self._ids[to:])
        if known and piece.endswith(known):
            self._window, self._known = to, known


class StopGuard:
    """Lets text through up to where a stop begins, or may begin."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def pass_on(self, text: str) -> str:
        if not self._stops:
            return text
        held = self._held + text
        safe = min(_begins(held, stop) for stop in self._stops)
        self._held = held[safe:]
        return held[:safe]


def _begins(text: str, stop: str) -> int:
    """Where the stop, or at the end of the text a part of it, begins; the text's length if not."""
    if (at := text.find(stop)) >= 0:
        return at
    for at in range(max(0, len(text) - len(stop) + 1), len(text)):
        if stop.startswith(text[at:]):
            return at
    return len(text)
