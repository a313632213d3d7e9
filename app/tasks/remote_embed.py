"""Text to vector, by another server."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from app.core.errors import InvalidRequest, InvariantBroken
from app.core.types import Answer, Usage
from app.core.upstream import Call
from app.tasks.remote import MalformedAnswer, Reader, RemoteUsage, fields_of, read, usage_of
from app.tasks.rows import require_text


class _Vector(msgspec.Struct, frozen=True):
    embedding: Annotated[list[float], msgspec.Meta(min_length=1, max_length=65_536)]


class _Vectors(msgspec.Struct, frozen=True):
    data: Annotated[list[_Vector], msgspec.Meta(min_length=1, max_length=1)]
    usage: RemoteUsage | None = None


class RemoteEmbed:
    """The vector as the other server gives it."""

    def prepare(
        self, given: str | Mapping[str, Any], parameters: Mapping[str, Any], *, stream: bool
    ) -> tuple[Call, Reader]:
        if not isinstance(given, str):
            raise InvalidRequest("inputs is not what an embedder takes; send text")
        require_text(given)
        body = {"input": [given], "encoding_format": "float", **fields_of(parameters)}
        return Call("embeddings", body), _VectorReader()


class _VectorReader:
    def whole(self, content: bytes) -> Answer:
        said = read(content, _Vectors)
        vector = said.data[0].embedding
        if not all(map(math.isfinite, vector)):
            raise MalformedAnswer
        return Answer(vector, {"dimensions": len(vector)}, usage_of(said.usage))

    def take(self, event: bytes) -> tuple[str, int]:
        raise InvariantBroken("vectors do not stream")

    def used(self) -> Usage:
        return Usage()

    def end(self, *, is_complete: bool) -> Answer:
        raise InvariantBroken("vectors do not stream")
