"""Text to the same text in another language, by an encoder-decoder (Marian, M2M100, NLLB, T5)."""

from collections.abc import Mapping
from typing import Any

from app.core.inference import TextTokenizer
from app.tasks.base import Prepared
from app.tasks.decoding import Wishes
from app.tasks.documents import Rows
from app.tasks.languages import Languages
from app.tasks.rewrite import Rewrite, prepared
from app.tasks.rows import require_text

USUAL_MAX_LENGTH = 200


class Translate(Rewrite):
    """source_lang, target_lang: where a request names none; the others: see Rewrite (T5's
    instruction: "translate English to German: ").
    """

    taker = "translator"

    def __init__(
        self,
        generation: Mapping[str, Any] | None = None,
        source_lang: str | None = None,
        target_lang: str | None = None,
        language: str = "en",
        instruction: str = "",
    ) -> None:
        super().__init__(generation, language, instruction)
        self._source_lang = source_lang
        self._target_lang = target_lang

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: TextTokenizer
    ) -> Prepared:
        languages = Languages.of(tokenizer)
        said, text = languages.said_in(text)
        require_text(text)
        spoken = languages.spoken(
            parameters["source_lang"] or self._source_lang,
            parameters["target_lang"] or said or self._target_lang,
            self._generation.get("forced_bos_token_id"),
        )
        wishes = Wishes(parameters, self._generation)
        most = wishes.max_length(USUAL_MAX_LENGTH, tokenizer.max_tokens)
        decoding = wishes.decoding(most, wishes.min_length(most), spoken.prefix)
        rows = self._rows(text, parameters, tokenizer, spoken.code)
        if spoken.source is not None:
            marked = tuple(languages.mark(row, spoken.source) for row in rows.rows)
            rows = Rows(marked, rows.metadata)
        return prepared(rows, decoding, tokenizer)
