"""The words that tasks and runtimes share: token ids, vectors, sampling. Knows no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = Sequence[int]
Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    """The model's own tokenizer, special tokens included."""

    max_tokens: int  # longest row the model takes

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, never cut or padded."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one prompt is continued. temperature 0 is greedy."""

    max_new_tokens: int
    sequences: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """One finished continuation. finish_reason: `stop` or `length`."""

    token_ids: tuple[int, ...]
    finish_reason: str
