"""A text as rows that an encoder-decoder takes: whole, cut, or in parts split at sentences.

A row is the marks that the tokenizer puts around every text, and between them the tokens of the
checkpoint's instruction, if it has one, and of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from app.core.errors import InputTooLong, InvalidRequest, InvariantBroken
from app.core.inference import TokenIds, Tokenizer
from app.tasks.sentences import split

LongDocument = Literal["refuse", "truncate", "merge"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of a text, and what its caller is told about that."""

    rows: tuple[TokenIds, ...]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens that stand before and after every text."""

    head: tuple[int, ...]
    tail: tuple[int, ...]

    @classmethod
    def around(cls, row: TokenIds, empty: TokenIds) -> "Marks":
        """empty: what an empty text becomes, which is the marks and nothing else."""
        head = 0
        while head < len(empty) and row[head] == empty[head]:
            head += 1
        return cls(tuple(empty[:head]), tuple(empty[head:]))

    def strip(self, row: TokenIds) -> TokenIds:
        return row[len(self.head) : len(row) - len(self.tail)]

    def put_around(self, tokens: TokenIds) -> TokenIds:
        return [*self.head, *tokens, *self.tail]


def wish(truncate: bool, long_document: LongDocument) -> LongDocument:
    """Two parameters for one thing. Raises InvalidRequest where they contradict each other."""
    if not truncate:
        return long_document
    if long_document == "merge":
        raise InvalidRequest(
            'parameters.truncate and parameters.long_document "merge" exclude each other'
        )
    return "truncate"


def rows_of(
    text: str,
    tokenizer: Tokenizer,
    *,
    long_document: LongDocument,
    taker: str,
    language: str,
    instruction: str,
) -> Rows:
    """taker: who refuses a longer text, for the message; language: for finding sentences;
    instruction: put in front of every row. Raises InputTooLong.
    """
    empty, row = tokenizer.encode(["", instruction + text])
    limit = tokenizer.max_tokens
    if len(row) <= limit:
        return Rows((row,), {})
    marks = Marks.around(row, empty)
    if long_document == "refuse":
        raise InputTooLong(
            f"text has {len(row)} tokens, {taker} takes at most {limit}; shorten it, or set "
            'parameters.truncate to true or parameters.long_document to "merge"'
        )
    if long_document == "truncate":
        tokens = marks.strip(row)[: limit - len(empty)]
        return Rows((marks.put_around(tokens),), {"truncated": True})
    # As in the middle of a text, where a space goes before.
    spoken, *sentences = (
        marks.strip(encoded)
        for encoded in tokenizer.encode(
            [instruction.rstrip(), *(f" {sentence}" for sentence in split(text, language))]
        )
    )
    room = limit - len(empty) - len(spoken)
    if room < 1:
        raise InvariantBroken(f"the instruction leaves no room in {limit} tokens")
    parts = balanced(sentences, room)
    rows = tuple(marks.put_around([*spoken, *part]) for part in parts)
    return Rows(rows, {"long_document": "merge", "chunks": len(rows)})


def balanced(sentences: Sequence[TokenIds], room: int) -> list[TokenIds]:
    """As few parts as can be, none longer than `room` and the longest as short as can be.

    A sentence that is longer than a part is taken apart between tokens.
    """
    pieces = [
        sentence[at : at + room] for sentence in sentences for at in range(0, len(sentence), room)
    ]
    sizes = [len(piece) for piece in pieces]
    fewest = len(_borders(sizes, room))
    low, high = max(sizes), room
    while low < high:
        middle = (low + high) // 2
        if len(_borders(sizes, middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    borders = [0, *_borders(sizes, high)]
    return [
        [token for piece in pieces[first:last] for token in piece]
        for first, last in pairwise(borders)
    ]


def _borders(sizes: Sequence[int], room: int) -> list[int]:
    """Where each part ends when every part takes what fits."""
    borders: list[int] = []
    held = 0
    for index, size in enumerate(sizes):
        if held + size > room:
            borders.append(index)
            held = 0
        held += size
    return [*borders, len(sizes)]
