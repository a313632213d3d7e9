"""Text models in named tensors: which go in, which come out, and how texts become requests.

Every task takes `text`, BYTES [n] or [n, 1], one inference per element; a reranker takes one
text and `documents`. Outputs have one row per text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import msgspec
import numpy as np

from app.core.errors import InvalidRequest
from app.core.tensor_bytes import bytes_of_texts, count_of, flat, texts_of_bytes
from app.core.tensors import TensorSpec
from app.core.texts import problem_of_text
from app.core.types import Answer
from app.services.inference_service import InferenceRequest
from app.services.model_service import ServedVersion

TEXT, DOCUMENTS = "text", "documents"
MAX_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class Tensor:
    """data: raw little-endian bytes, or values, row by row or nested."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]

    @property
    def size(self) -> int:
        return count_of(f"inputs.{self.name}", self.shape)


class TextLimits(Protocol):
    @property
    def max_text_chars(self) -> int: ...

    @property
    def max_items(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TextBatch:
    """is_column: the texts came as [n, 1], and so go the outputs that have one value per text."""

    requests: list[InferenceRequest]
    is_column: bool


def inputs_of_texts(task: str) -> list[dict[str, Any]]:
    """For metadata."""
    names = (TEXT, DOCUMENTS) if task == "rerank" else (TEXT,)
    return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names]


def requests_of_tensors(
    found: ServedVersion,
    inputs: Sequence[Tensor],
    parameters: Mapping[str, Any],
    limits: TextLimits,
) -> TextBatch:
    """One request per text. Raises InvalidRequest naming the input."""
    names = [shown["name"] for shown in inputs_of_texts(found.task)]
    given = {tensor.name: tensor for tensor in inputs}
    for name in given:
        if name not in names:
            raise InvalidRequest(
                f"inputs.{name[:64]} is unknown; the model takes: {', '.join(names)}"
            )
    if TEXT not in given:
        raise InvalidRequest("inputs.text is missing; send BYTES of shape [n] or [n, 1]")
    is_ranking = DOCUMENTS in names
    texts = _texts(given[TEXT], 1 if is_ranking else limits.max_items, limits.max_text_chars)
    if is_ranking and DOCUMENTS in given:
        documents = _texts(given[DOCUMENTS], MAX_DOCUMENTS, limits.max_text_chars)
        parameters = {**parameters, DOCUMENTS: documents}
    requests = [InferenceRequest(text, found.name, found.version, parameters) for text in texts]
    return TextBatch(requests, len(given[TEXT].shape) == 2)


def _texts(tensor: Tensor, most: int, max_chars: int) -> list[str]:
    field = f"inputs.{tensor.name}"
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"{field}.datatype is {tensor.datatype[:16]!r}, the model takes BYTES")
    shape = tensor.shape
    count = count_of(field, shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise InvalidRequest(f"{field}.shape is {list(shape)}, the model takes [n] or [n, 1]")
    if count > most:
        hint = " (MAX_REQUEST_ITEMS)" if most not in (1, MAX_DOCUMENTS) else ""
        raise InvalidRequest(f"{field} has {count} texts, at most {most} are taken{hint}")
    if isinstance(tensor.data, bytes):
        texts = texts_of_bytes(field, tensor.data, count)
    else:
        texts, _ = flat(f"{field}.data", tensor.data, "BYTES")
        if len(texts) != count:
            raise InvalidRequest(f"{field}.shape is {list(shape)}, data has {len(texts)} texts")
    for index, text in enumerate(texts):
        if (problem := problem_of_text(text, max_chars)) is not None:
            raise InvalidRequest(f"{field}[{index}] {problem}")
    return texts


def shown_outputs(task: str) -> list[dict[str, Any]]:
    """For metadata: those that every request gets."""
    return [
        {"name": spec.name, "datatype": spec.datatype, "shape": spec.shown_shape}
        for spec in (*_FORMS.get(task, _ANY).specs, *_USAGE)
    ]


def outputs_of_answers(task: str, answers: Sequence[Answer], is_column: bool) -> list[Tensor]:
    """answers: one per text, made with the same parameters."""
    made = _FORMS.get(task, _ANY).made(answers)
    made.append(_numbers("input_tokens", "INT64", [a.usage.input_tokens for a in answers]))
    made.append(_numbers("output_tokens", "INT64", [a.usage.output_tokens for a in answers]))
    return [_column(tensor, len(answers)) if is_column else tensor for tensor in made]


def _column(tensor: Tensor, count: int) -> Tensor:
    if tensor.shape != (count,):
        return tensor
    return Tensor(tensor.name, tensor.datatype, (count, 1), tensor.data)


def _classified(answers: Sequence[Answer]) -> list[Tensor]:
    scores = [answer.metadata["scores"] for answer in answers]
    shape = (len(answers), len(scores[0]))
    return [
        _strings("label", [answer.value for answer in answers]),
        _numbers("score", "FP64", [answer.metadata["confidence"] for answer in answers]),
        _strings("labels", list(chain.from_iterable(scores)), shape),
        _numbers("scores", "FP64", [list(each.values()) for each in scores]),
    ]


def _embedded(answers: Sequence[Answer]) -> list[Tensor]:
    return [_numbers("embedding", "FP32", [answer.value for answer in answers])]


def _written(answers: Sequence[Answer]) -> list[Tensor]:
    return [_strings("text", *_rows([answer.value for answer in answers]))]


def _generated(answers: Sequence[Answer]) -> list[Tensor]:
    made = _written(answers)
    reasons = [answer.metadata["finish_reason"] for answer in answers]
    made.append(_strings("finish_reason", *_rows(reasons)))
    if all("seed" in answer.metadata for answer in answers):
        made.append(_numbers("seed", "INT64", [answer.metadata["seed"] for answer in answers]))
    return made


def _ranked(answers: Sequence[Answer]) -> list[Tensor]:
    entries: list[dict[str, Any]] = answers[0].value
    made = [
        _numbers("index", "INT64", [entry["index"] for entry in entries]),
        _numbers("score", "FP64", [entry["score"] for entry in entries]),
    ]
    if all("document" in entry for entry in entries):
        made.append(_strings("document", [entry["document"] for entry in entries]))
    return made


def _whatever(answers: Sequence[Answer]) -> list[Tensor]:
    encode = msgspec.json.Encoder().encode
    return [_strings("result", [encode(answer.value).decode("utf-8") for answer in answers])]


def _rows(values: list[Any]) -> tuple[list[str], tuple[int, ...]]:
    """Strings, or lists of them where several continuations were asked for."""
    if isinstance(values[0], str):
        return values, (len(values),)
    return list(chain.from_iterable(values)), (len(values), len(values[0]))


def _strings(name: str, texts: list[str], shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(name, "BYTES", shape or (len(texts),), list(texts))


def _numbers(name: str, datatype: str, values: list[Any]) -> Tensor:
    array = np.array(values, {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}[datatype])
    return Tensor(name, datatype, array.shape, array.tobytes())


@dataclass(frozen=True, slots=True)
class _Form:
    specs: tuple[TensorSpec, ...]
    made: Callable[[Sequence[Answer]], list[Tensor]]


def _per_text(*named: tuple[str, str], width: str = "") -> tuple[TensorSpec, ...]:
    """width: of these outputs, those with several values per text."""
    return tuple(
        TensorSpec(name, datatype, (None, None) if name in width.split() else (None,))
        for name, datatype in named
    )


_USAGE = _per_text(("input_tokens", "INT64"), ("output_tokens", "INT64"))
_TEXT = _Form(_per_text((TEXT, "BYTES")), _written)
_ANY = _Form(_per_text(("result", "BYTES")), _whatever)
_FORMS = {
    "classify": _Form(
        _per_text(
            ("label", "BYTES"),
            ("score", "FP64"),
            ("labels", "BYTES"),
            ("scores", "FP64"),
            width="labels scores",
        ),
        _classified,
    ),
    "embed": _Form(_per_text(("embedding", "FP32"), width="embedding"), _embedded),
    "summarize": _TEXT,
    "translate": _TEXT,
    "generate": _Form(_per_text((TEXT, "BYTES"), ("finish_reason", "BYTES")), _generated),
    "rerank": _Form(_per_text(("index", "INT64"), ("score", "FP64")), _ranked),
}


def raw_of(tensor: Tensor) -> bytes:
    """As the binary extension and gRPC carry it."""
    return tensor.data if isinstance(tensor.data, bytes) else bytes_of_texts(tensor.data)
