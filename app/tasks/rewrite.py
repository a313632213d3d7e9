"""What summarizing and translating with an encoder-decoder share: rows in, one text out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.inference import Decoding, Generated, TextTokenizer
from app.core.types import Answer, Usage
from app.tasks.base import Prepared
from app.tasks.documents import Rows, rows_of, wish


@dataclass(frozen=True, slots=True)
class Draft:
    """What the answer is made with once the rows are written."""

    decode: Callable[[Sequence[int]], str]
    metadata: dict[str, Any]


class Rewrite:
    """generation: the checkpoint's defaults; language: of the sentence splitter, for texts that are
    split; instruction: what the checkpoint wants in front of a text (T5: "summarize: ").
    """

    taker = ""  # who refuses a longer text, for the message

    def __init__(
        self,
        generation: Mapping[str, Any] | None = None,
        language: str = "en",
        instruction: str = "",
    ) -> None:
        self._generation = generation or {}
        self._language = language
        self._instruction = instruction

    def finish(
        self, prepared: Prepared, outputs: Sequence[Sequence[Generated]], parameters: object
    ) -> Answer:
        """The text of each row, in order. It ended at a limit if one of them did."""
        draft: Draft = prepared.state
        written = [texts[0] for texts in outputs]
        texts = (draft.decode(one.token_ids).strip() for one in written)
        is_cut = any(one.finish_reason == "length" for one in written)
        return Answer(
            " ".join(text for text in texts if text),
            {"finish_reason": "length" if is_cut else "stop", **draft.metadata},
            Usage(prepared.input_tokens, sum(len(one.token_ids) for one in written)),
        )

    def _rows(
        self, text: str, parameters: Mapping[str, Any], tokenizer: TextTokenizer, code: str = ""
    ) -> Rows:
        """code: in front of the instruction. Raises InputTooLong and InvalidRequest."""
        return rows_of(
            text,
            tokenizer,
            long_document=wish(parameters["truncate"], parameters["long_document"]),
            taker=self.taker,
            language=self._language,
            instruction=code + self._instruction,
        )


def prepared(rows: Rows, decoding: Decoding, tokenizer: TextTokenizer) -> Prepared:
    """Every row is written in the same way, so that they may share a batch."""
    metadata = dict(rows.metadata)
    if decoding.temperature > 0:
        metadata["seed"] = decoding.seed
    return Prepared(
        rows.rows,
        input_tokens=sum(map(len, rows.rows)),
        state=Draft(tokenizer.decode, metadata),
        settings=decoding,
    )
