"""The embedded runtimes with a weakness: some inputs kill or hang their process.

A row that holds the tokens of `KILLS` ends the process, as a crash in a library would; one that
holds those of `HANGS` never comes back.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

from app.core.inference import TokenIds
from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.runtimes.openvino_paged import OpenVinoLlm

KILLS, HANGS = "zyzzyvakill", "zyzzyvahang"


class Fragile:
    """Looks at rows before they run."""

    def __init__(self, tokenizer: Any) -> None:
        # In the middle of a text, without the marks around it.
        first, kills, hangs = tokenizer.encode(["a b", f"a {KILLS} b", f"a {HANGS} b"])
        self._kills, self._hangs = _between(first, kills), _between(first, hangs)

    def look_at(self, row: TokenIds) -> None:
        if _holds(row, self._kills):
            os.abort()
        if _holds(row, self._hangs):
            time.sleep(3600)


class FragileEncoder(OpenVinoEncoder):
    """The embedded encoder."""

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Any:
        fragile = Fragile(self.tokenizer)
        for row in rows:
            fragile.look_at(row)
        return super().run(rows, settings)


class FragileGenerator(OpenVinoLlm):
    """The embedded generator."""

    def add(self, item_id: int, prompt: TokenIds, sampling: Any) -> None:
        Fragile(self.tokenizer).look_at(prompt)
        super().add(item_id, prompt, sampling)


def _between(plain: TokenIds, marked: TokenIds) -> list[int]:
    """What `marked` has in place of nothing: both begin and end alike."""
    head = next(at for at, (a, b) in enumerate(zip(plain, marked, strict=False)) if a != b)
    tail = len(plain) - head
    return list(marked[head : len(marked) - tail])


def _holds(row: TokenIds, part: Sequence[int]) -> bool:
    last = len(row) - len(part)
    return any(list(row[at : at + len(part)]) == list(part) for at in range(last + 1))
