"""Which tokens may come next so that a text fits a JSON schema: llguidance over our vocabulary.

A schema comes from a caller. What it may cost is bounded: its size, its depth, what it is compiled
to, and what one step may look at. It is compiled and asked for its first token before it is let
into a step, so that most of what is wrong with it is found there.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.core.errors import CannotLoad, InvalidRequest

log = structlog.get_logger()

MOST_CHARS = 65_536
MOST_DEPTH = 64
MOST_KEPT = 32
MOST_MESSAGE = 200
FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # 20 ms
    "step_lexer_fuel": 200_000,  # 15 ms
    "step_max_items": 50_000,
    "max_items_in_row": 10_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
OWN_OPTIONS = "x-guidance"  # a keyword by which a schema could set other limits than ours


class Grammars:
    """Compiles schemas for one vocabulary, and keeps the last ones.

    tokens: the bytes of each token id; special: ids that stand for no bytes of a text; encode:
    token ids of a text, nothing put around it.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        ends: Sequence[int],
        vocabulary: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        try:
            import llguidance
        except ModuleNotFoundError as missing:
            raise CannotLoad("JSON schemas need the package llguidance") from missing
        self._library = llguidance
        self._limits = llguidance.LLParserLimits(**LIMITS)
        self._vocabulary = vocabulary
        wrapper = llguidance.TokenizerWrapper(_Words(tokens, special, ends[0], encode))
        self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocabulary, eos_token=list(ends))
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def start(self, schema: str) -> "Matcher":
        """The state before the first token. Raises InvalidRequest."""
        if schema not in self._kept:
            self._kept[schema] = self._compile(schema)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(schema)
        return Matcher(self._kept[schema].deep_copy(), self._vocabulary)

    def _compile(self, schema: str) -> Any:
        _check_size(schema)
        parsed = _parsed(schema)
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(parsed, overrides=FORM)
        except ValueError as error:
            raise _refusal(str(error)) from error
        matcher = self._library.LLMatcher(
            self._tokenizer, grammar, log_level=0, limits=self._limits
        )
        trial = matcher.deep_copy()
        if not trial.is_error():
            trial.compute_bitmask()
        if trial.is_error():
            raise _refusal(trial.get_error() or "no text fits it")
        return matcher


class Matcher:
    """How far one continuation is. has_ended: nothing but the end may follow."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def has_ended(self) -> bool:
        """Also where the schema turned out to be too much for its limits."""
        return bool(self._matcher.is_stopped())

    @property
    def is_complete(self) -> bool:
        """Whether what is written fits the schema as it stands."""
        return not self._matcher.is_error() and bool(self._matcher.is_accepting())

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)
        if self._matcher.is_error():
            log.warning(
                "schema_too_large_in_a_step", error=self._matcher.get_error()[:MOST_MESSAGE]
            )
            return np.ones(self._vocabulary, np.bool_)
        return allowed

    def consume(self, token: int) -> None:
        self._matcher.consume_token(token)


class _Words:
    """The vocabulary in the shape that the library asks for."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        end: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        self.eos_token_id = end
        self.bos_token_id = None
        self.tokens = tokens
        self.special_token_ids = special
        self._encode = encode

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "replace"))


def _check_size(schema: str) -> None:
    if len(schema) > MOST_CHARS:
        raise _refusal(f"it has {len(schema)} characters, at most {MOST_CHARS} are taken")


def _parsed(schema: str) -> str:
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise _refusal("it is not JSON") from error
    if not isinstance(parsed, dict | bool):
        raise _refusal("it is neither an object nor true or false")
    if _depth(parsed) > MOST_DEPTH:
        raise _refusal(f"it is nested more than {MOST_DEPTH} levels deep")
    if isinstance(parsed, dict):
        parsed.pop(OWN_OPTIONS, None)
    return json.dumps(parsed)


def _depth(value: Any) -> int:
    """Level by level; of something very deep no more than needed."""
    depth, level = 0, [value]
    while level and depth <= MOST_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"the JSON schema cannot be used: {' '.join(problem.split())[:MOST_MESSAGE]}"
    )
