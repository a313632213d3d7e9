"""A query and documents to the documents' order: a cross-encoder scores each pair.

One row per document, so the documents of one request, and of many, share batches by length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from app.core.errors import CannotLoad, InputTooLong, InvalidRequest, InvariantBroken
from app.core.inference import EncodedPair, PairTokenizer
from app.core.tensors import Signature
from app.core.types import Answer, Usage
from app.tasks.base import Prepared
from app.tasks.classify import sigmoid
from app.tasks.rows import require_text


@dataclass(frozen=True, slots=True)
class Ranked:
    """The documents as they came, and how many of them were cut."""

    documents: tuple[str, ...]
    truncated: int


class Rerank:
    """function: `sigmoid` gives scores between 0 and 1; `none` gives the model's own numbers."""

    def __init__(self, function: Literal["sigmoid", "none"] = "sigmoid") -> None:
        if function not in ("sigmoid", "none"):
            raise ValueError(f"function is {function!r}; known: sigmoid, none")
        self._is_sigmoid = function == "sigmoid"

    def fit(self, signature: Signature) -> None:
        width = signature.outputs[0].shape[-1]
        if width not in (None, 1):
            raise CannotLoad(f"the model gives {width} scores for a pair; a reranker gives one")

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: PairTokenizer
    ) -> Prepared:
        require_text(text)
        documents: tuple[str, ...] = tuple(parameters["documents"] or ())
        if not documents:
            raise InvalidRequest("parameters.documents is missing or empty; send what to rank")
        pairs = tokenizer.encode_pairs([(text, document) for document in documents])
        limit, may_cut = tokenizer.max_tokens, bool(parameters.get("truncate", False))
        rows = tuple(
            _fitting(pair, limit, f"parameters.documents.{index}", may_cut)
            for index, pair in enumerate(pairs)
        )
        cut = sum(len(row) < len(pair.ids) for row, pair in zip(rows, pairs, strict=True))
        return Prepared(
            rows,
            input_tokens=sum(map(len, rows)),
            state=Ranked(documents, cut),
            row_settings=tuple(pair.pair for pair in pairs),
        )

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        ranked: Ranked = prepared.state
        scores = np.stack(outputs).astype(np.float64)[:, 0]
        if not np.isfinite(scores).all():
            raise InvariantBroken("the model returned scores that are not finite")
        if self._is_sigmoid:
            scores = sigmoid(scores)
        order = np.argsort(-scores, kind="stable")[: parameters.get("top_n")]
        entries: list[dict[str, Any]] = [
            {"index": int(index), "score": float(scores[index])} for index in order
        ]
        if parameters.get("return_documents", False):
            for entry in entries:
                entry["document"] = ranked.documents[entry["index"]]
        metadata = {"documents": len(ranked.documents)}
        if ranked.truncated:
            metadata["truncated_documents"] = ranked.truncated
        return Answer(entries, metadata, Usage(prepared.input_tokens))


def _fitting(pair: EncodedPair, limit: int, field: str, may_cut: bool) -> list[int]:
    """The pair's row, its document cut at the end where that is allowed; the query never is."""
    excess = len(pair.ids) - limit
    if excess <= 0:
        return pair.ids
    room = pair.second_end - pair.second_start - excess
    if room < 1:
        raise InputTooLong(
            f"text and the marks around it have {pair.second_start} tokens or more, a pair takes "
            f"at most {limit}; shorten text"
        )
    if not may_cut:
        raise InputTooLong(
            f"{field} and text have {len(pair.ids)} tokens, a pair takes at most {limit}; "
            "shorten it or set parameters.truncate to true"
        )
    return [*pair.ids[: pair.second_start + room], *pair.ids[pair.second_end :]]
