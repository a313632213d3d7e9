"""The words that tasks and runtimes share: token ids, vectors, sampling. Knows no library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

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


@runtime_checkable
class SteeredTokenizer(Tokenizer, Protocol):
    """The tokenizer of a runtime that chooses tokens from the logits itself, and so takes `min_p`,
    `logit_bias`, `logprobs` and `json_schema`."""

    vocabulary: int  # ids are below

    def check_schema(self, schema: str) -> None:
        """Raises InvalidRequest for a JSON schema that is wrong, unknown in part, or too large."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one prompt is continued. temperature 0 is greedy, or a beam search above 1 beam.

    min_new_tokens: no token that ends the text comes before. repetition_penalty divides the
    likelihood of every token of prompt and continuation; frequency and presence penalties are
    taken off the logits of tokens in the continuation, per occurrence and once. None of the
    penalties goes with beams. min_p leaves out what is less likely than this share of the
    likeliest; logit_bias is added to the logits of token ids. logprobs: how many of the likeliest
    tokens to name beside each chosen one, None not to tell at all. json_schema: text of the schema
    that the continuation has to fit. A runtime takes the last four if its tokenizer is a
    SteeredTokenizer.
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
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None


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
class TokenLogprob:
    """How likely the model itself found a token, before any rule of the request: the natural
    logarithm of its probability. top: the likeliest tokens with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """One finished continuation. finish_reason: `stop` or `length`. logprobs: one per token, if
    they were asked for."""

    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What a continuation grew by. index: which one of its prompt. logprobs: one per token, if they
    were asked for. finish_reason: where it ended with these, as in `Generated`."""

    token_ids: tuple[int, ...]
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


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
