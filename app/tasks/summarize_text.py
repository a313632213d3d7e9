"""Text to a summary in words of its own, by an encoder-decoder (BART, T5, Pegasus)."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.inference import TextTokenizer
from app.core.types import Answer
from app.tasks.base import Prepared
from app.tasks.decoding import Wishes
from app.tasks.documents import rows_of, wish
from app.tasks.rewrite import joined, prepared
from app.tasks.rows import require_text

USUAL_MAX_LENGTH = 142


class SummarizeText:
    """generation: the checkpoint's defaults; language: of the sentence splitter, for texts that
    are split; instruction: what the checkpoint wants in front of a text (T5: "summarize: ").
    """

    def __init__(
        self,
        generation: Mapping[str, Any] | None = None,
        language: str = "en",
        instruction: str = "",
    ) -> None:
        self._generation = generation or {}
        self._language = language
        self._instruction = instruction

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: TextTokenizer
    ) -> Prepared:
        require_text(text)
        rows = rows_of(
            text,
            tokenizer,
            long_document=wish(parameters["truncate"], parameters["long_document"]),
            taker="summarizer",
            language=self._language,
            instruction=self._instruction,
        )
        wishes = Wishes(parameters, self._generation)
        most = wishes.max_length(USUAL_MAX_LENGTH, tokenizer.max_tokens)
        # A summary that must be longer than its text can only be made up. One bound for all parts:
        # they are of about one length, and rows of equal settings share a batch.
        least = min(wishes.min_length(most), *map(len, rows.rows))
        first = self._generation.get("forced_bos_token_id")
        prefix = () if first is None else (int(first),)
        return prepared(rows, wishes.decoding(most, least, prefix), tokenizer)

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        return joined(outputs, prepared)
