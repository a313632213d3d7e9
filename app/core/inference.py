"""The words that tasks and runtimes share: token ids, vectors, sampling. Knows no library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = Sequence[int]
Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    """The model's own tokenizer, special tokens included."""

    max_tokens: int  # longest row the model takes

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, never cut or padded."""


class TextTokenizer(Tokenizer, Protocol):
    """One that also reads tokens back: what a task needs whose model writes."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, special ones left out."""

    def special_tokens(self) -> Mapping[str, int]:
        """Special tokens, languages among them, by their text."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one prompt is continued. temperature 0 is greedy, or a beam search above 1 beam.

    min_new_tokens: no token that ends the text comes before. repetition_penalty divides the
    likelihood of every token of prompt and continuation; frequency and presence penalties are
    taken off the logits of tokens in the continuation, per occurrence and once. None of the
    penalties goes with beams.
    """

    max_new_tokens: int
    sequences: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_new_tokens: int = 0
    beams: int = 1
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an encoder-decoder writes one text. Lengths count new tokens, as transformers'
    `max_new_tokens` does, without the decoder's start token.

    beams 1 with temperature 0 is greedy; temperature above 0 samples (beams is 1 then).
    early_stopping: end as soon as there are `beams` finished hypotheses; `never`: not before no
    longer one could be better. prefix: tokens that the
    decoder begins with after its start token (a forced first token, a target language).
    """

    max_tokens: int
    min_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    prefix: tuple[int, ...] = ()

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are held at the end of the longest text, over all beams."""
        return self.beams * self.max_tokens


@dataclass(frozen=True, slots=True)
class Generated:
    """One finished continuation. finish_reason: `stop` or `length`."""

    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Pair:
    """How a row that holds two texts is run: tokens from `second_from` on are of the second type
    (`token_type_ids`). It is the row's length where the model tells texts apart by marks alone."""

    second_from: int


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Two texts as one row. The second text's own tokens, marks left out, are those from
    `second_start` to before `second_end`."""

    ids: list[int]
    second_start: int
    second_end: int
    pair: Pair


class PairTokenizer(Tokenizer, Protocol):
    """One that also joins two texts, as rerankers are trained with."""

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Each pair as one row with the marks that the model expects, never cut or padded."""
