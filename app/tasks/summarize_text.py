"""Text to a summary in words of its own, by an encoder-decoder (BART, T5, Pegasus)."""

from collections.abc import Mapping
from typing import Any

from app.core.inference import TextTokenizer
from app.tasks.base import Prepared
from app.tasks.decoding import Wishes
from app.tasks.rewrite import Rewrite, prepared
from app.tasks.rows import require_text

USUAL_MAX_LENGTH = 142


class SummarizeText(Rewrite):
    """Options: see Rewrite."""

    taker = "summarizer"

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: TextTokenizer
    ) -> Prepared:
        require_text(text)
        rows = self._rows(text, parameters, tokenizer)
        wishes = Wishes(parameters, self._generation)
        most = wishes.max_length(USUAL_MAX_LENGTH, tokenizer.max_tokens)
        # A summary that must be longer than its text can only be made up. One bound for all parts:
        # they are of about one length, and rows of equal settings share a batch.
        least = min(wishes.min_length(most), *map(len, rows.rows))
        first = self._generation.get("forced_bos_token_id")
        prefix = () if first is None else (int(first),)
        return prepared(rows, wishes.decoding(most, least, prefix), tokenizer)
