"""Text to the same text in another language, by an encoder-decoder.

A model of one pair (Marian) needs no language. A model of many (M2M100, NLLB, mBART) has a special
token for each: the source's stands in the row, the target's is the first that the decoder writes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.core.errors import InvalidRequest
from app.core.inference import TextTokenizer, TokenIds
from app.core.types import Answer
from app.tasks.base import Prepared
from app.tasks.decoding import Wishes
from app.tasks.documents import Rows, rows_of, wish
from app.tasks.rewrite import joined, prepared
from app.tasks.rows import require_text

USUAL_MAX_LENGTH = 200
LANGUAGES_SHOWN = 12
# __fr__ (M2M100), fra_Latn (NLLB), fr_XX (mBART)
_LANGUAGE = re.compile(r"__(\w{2,3})__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")


class Translate:
    """generation: the checkpoint's defaults; source_lang, target_lang: where a request names
    none; language: of the sentence splitter; instruction: what the checkpoint wants in front of a
    text (T5: "translate English to German: ").
    """

    def __init__(
        self,
        generation: Mapping[str, Any] | None = None,
        source_lang: str | None = None,
        target_lang: str | None = None,
        language: str = "en",
        instruction: str = "",
    ) -> None:
        self._generation = generation or {}
        self._usual = {"source_lang": source_lang, "target_lang": target_lang}
        self._language = language
        self._instruction = instruction

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: TextTokenizer
    ) -> Prepared:
        require_text(text)
        languages = languages_of(tokenizer)
        source = self._token("source_lang", parameters, languages)
        target = self._token("target_lang", parameters, languages)
        wishes = Wishes(parameters, self._generation)
        most = wishes.max_length(USUAL_MAX_LENGTH, tokenizer.max_tokens)
        decoding = wishes.decoding(most, wishes.min_length(most), self._prefix(target, languages))
        rows = rows_of(
            text,
            tokenizer,
            long_document=wish(parameters["truncate"], parameters["long_document"]),
            taker="translator",
            language=self._language,
            instruction=self._instruction,
        )
        if source is not None:
            known = frozenset(languages.values())
            spoken = tuple(in_language(row, source, known) for row in rows.rows)
            rows = Rows(spoken, rows.metadata)
        return prepared(rows, decoding, tokenizer)

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        return joined(outputs, prepared)

    def _token(
        self, name: str, parameters: Mapping[str, Any], languages: Mapping[str, int]
    ) -> int | None:
        """The language's token. Raises InvalidRequest for one that the model does not have."""
        asked = parameters[name] or self._usual[name]
        if asked is None:
            return None
        if not languages:
            raise InvalidRequest(
                f"parameters.{name} is not for this model: it has no tokens for languages"
            )
        if asked not in languages:
            raise InvalidRequest(
                f"parameters.{name} {asked!r} is not a language of this model; "
                f"it has: {_some(languages)}"
            )
        return languages[asked]

    def _prefix(self, target: int | None, languages: Mapping[str, int]) -> tuple[int, ...]:
        first = target if target is not None else self._generation.get("forced_bos_token_id")
        if first is None and languages:
            raise InvalidRequest(
                "parameters.target_lang is required: this model translates into "
                f"{len(languages)} languages, among them: {_some(languages)}"
            )
        return () if first is None else (int(first),)


def languages_of(tokenizer: TextTokenizer) -> dict[str, int]:
    """Token by language, as callers name it; empty for a model of one pair."""
    found: dict[str, int] = {}
    for token, token_id in tokenizer.special_tokens().items():
        match = _LANGUAGE.fullmatch(token)
        if match is not None:
            found[match[1] or token] = token_id
    return found


def in_language(row: TokenIds, source: int, languages: frozenset[int]) -> TokenIds:
    """The row with the source's token in place of the one that the tokenizer put, first or last.

    Raises InvalidRequest where it put none.
    """
    if row[0] in languages:
        return [source, *row[1:]]
    if row[-1] in languages:
        return [*row[:-1], source]
    raise InvalidRequest(
        "parameters.source_lang is not for this model: its tokenizer marks no language"
    )


def _some(languages: Mapping[str, int]) -> str:
    shown = sorted(languages)[:LANGUAGES_SHOWN]
    return ", ".join(shown) + (", ..." if len(languages) > LANGUAGES_SHOWN else "")
