"""What summarizing and translating with an encoder-decoder share: rows in, one text out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.inference import Decoding, Generated, TextTokenizer
from app.core.types import Answer, Usage
from app.tasks.base import Prepared
from app.tasks.documents import Rows


@dataclass(frozen=True, slots=True)
class Draft:
    """What the answer is made with once the rows are written."""

    decode: Callable[[Sequence[int]], str]
    metadata: dict[str, Any]


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


def joined(outputs: Sequence[Sequence[Generated]], prepared: Prepared) -> Answer:
    """The text of each row, in order. It ended at a limit if one of them did."""
    draft: Draft = prepared.state
    written = [texts[0] for texts in outputs]
    texts = (draft.decode(one.token_ids).strip() for one in written)
    reasons: Mapping[str, int] = {one.finish_reason: 1 for one in written}
    return Answer(
        " ".join(text for text in texts if text),
        {"finish_reason": "length" if "length" in reasons else "stop", **draft.metadata},
        Usage(prepared.input_tokens, sum(len(one.token_ids) for one in written)),
    )
