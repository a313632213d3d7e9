"""How a translator is told its languages.

A model of one pair is told none. M2M100, NLLB and mBART have a special token for each language: the
source's stands in the row, the target's is the first that the decoder writes. A Marian of several
targets reads a code at the start of the text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from app.core.errors import InvalidRequest
from app.core.inference import TextTokenizer, TokenIds

LANGUAGES_SHOWN = 12
# __fr__ (M2M100), fra_Latn (NLLB), fr_XX (mBART)
_TOKEN = re.compile(r"__(\w{2,3})__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_CODE = re.compile(r">>([\w-]+)<<")


@dataclass(frozen=True, slots=True)
class Spoken:
    """code: in front of the text. source: the token that rows begin or end with. prefix: what the
    decoder writes first."""

    code: str = ""
    source: int | None = None
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Languages:
    """tokens: by language, as callers name it. are_codes: they are targets, said in the text."""

    tokens: Mapping[str, int]
    are_codes: bool = False

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> Self:
        special = tokenizer.special_tokens()
        codes = {match[1]: special[match[0]] for match in map(_CODE.fullmatch, special) if match}
        if codes:
            return cls(codes, are_codes=True)
        found = (match for match in map(_TOKEN.fullmatch, special) if match)
        return cls({match[1] or match[0]: special[match[0]] for match in found})

    def said_in(self, text: str) -> tuple[str | None, str]:
        """The target that the text itself names, and the rest of it."""
        match = _CODE.match(text) if self.are_codes else None
        if match is None or match[1] not in self.tokens:
            return None, text
        return match[1], text[match.end() :]

    def spoken(self, source: str | None, target: str | None, forced: int | None) -> Spoken:
        """forced: the checkpoint's own first token. Raises InvalidRequest for a language that the
        model does not have, and where it has to be told one."""
        if self.are_codes:
            if source is not None:
                raise InvalidRequest(
                    "parameters.source_lang is not for this model: it takes the target alone"
                )
            self._token("target_lang", target)
            return Spoken(code=f">>{target or self._none_named()}<< ")
        first = self._token("target_lang", target)
        first = forced if first is None else first
        if first is None and self.tokens:
            self._none_named()
        prefix = () if first is None else (first,)
        return Spoken(source=self._token("source_lang", source), prefix=prefix)

    def mark(self, row: TokenIds, source: int) -> TokenIds:
        """The row with the source's token in place of the one that the tokenizer put, first or
        last. Raises InvalidRequest where it put none."""
        known = self.tokens.values()
        if row[0] in known:
            return [source, *row[1:]]
        if row[-1] in known:
            return [*row[:-1], source]
        raise InvalidRequest(
            "parameters.source_lang is not for this model: its tokenizer marks no language"
        )

    def _token(self, name: str, asked: str | None) -> int | None:
        if asked is None:
            return None
        if not self.tokens:
            raise InvalidRequest(
                f"parameters.{name} is not for this model: it has no tokens for languages"
            )
        if asked not in self.tokens:
            raise InvalidRequest(
                f"parameters.{name} {asked!r} is not a language of this model; "
                f"it has: {self._some}"
            )
        return self.tokens[asked]

    def _none_named(self) -> str:
        raise InvalidRequest(
            "parameters.target_lang is required: this model translates into "
            f"{len(self.tokens)} languages, among them: {self._some}"
        )

    @property
    def _some(self) -> str:
        shown = sorted(self.tokens)[:LANGUAGES_SHOWN]
        return ", ".join(shown) + (", ..." if len(self.tokens) > LANGUAGES_SHOWN else "")
