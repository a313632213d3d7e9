"""What all bodies of OpenAI's dialect share. Unknown fields are taken and told, never obeyed."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from pydantic.config import JsonDict

from app.core.errors import InvalidRequest
from app.schemas.problems import refusal

MAX_MODEL_CHARS = 257  # name, colon, version
MAX_SHOWN_FIELDS = 32

Body = TypeVar("Body", bound="OpenAiBody")
Fields = TypeVar("Fields", bound="OpenAiFields")


_TEXT = {"type": "string"}
Texts = Annotated[
    str | list[Any],
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}),
]
"""One text or several. Other entries are taken apart by `texts_of`, which says what is wrong."""


def taken(description: str, example: Any, **bounds: Any) -> Any:
    """A field that may be left out or null."""
    return Field(default=None, description=description, examples=[example], **bounds)


def examples(*bodies: dict[str, Any]) -> JsonDict:
    """Whole requests, for the document."""
    return {"examples": list(bodies)}


class OpenAiFields(BaseModel):
    """Strict in types; fields that are not ours are kept apart."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """Every known field that was sent and is not null."""
        known = type(self).model_fields
        values = ((name, getattr(self, name)) for name in self.model_fields_set if name in known)
        return {name: value for name, value in values if value is not None}

    def ignored(self) -> list[str]:
        """Names of the fields that are not ours, in the order in which they were sent."""
        extra = self.model_extra or {}
        return [name for name, value in extra.items() if value is not None][:MAX_SHOWN_FIELDS]


class OpenAiBody(OpenAiFields):
    """What is asked of a model."""

    model: str = Field(
        min_length=1,
        max_length=MAX_MODEL_CHARS,
        description="A model's name, or `name:version`; `/v1/models` lists them.",
        examples=["generator"],
    )


def parse_openai(kind: type[Fields], value: Any) -> Fields:
    """Raises InvalidRequest that names each wrong field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None


def texts_of(given: str | Sequence[Any], field: str, most: int) -> list[str]:
    """One text, or several. Token ids are refused: they are another tokenizer's."""
    entries = [given] if isinstance(given, str) else list(given)
    if not 1 <= len(entries) <= most:
        raise InvalidRequest(
            f"{field} has {len(entries)} entries, 1 to {most} are taken (MAX_REQUEST_ITEMS)"
        )
    for entry in entries:
        if not isinstance(entry, str):
            raise InvalidRequest(
                f"{field} holds token ids or other values; send text, because each model here has "
                "a tokenizer of its own (LangChain: check_embedding_ctx_length=False)"
            )
    return entries


class OpenAiUsage(BaseModel):
    """Tokens as the model's own tokenizer counts them."""

    prompt_tokens: int = Field(description="Of the input.", examples=[31])
    completion_tokens: int = Field(default=0, description="That were written.", examples=[12])
    total_tokens: int = Field(description="Both together.", examples=[43])


class OpenAiErrorObject(BaseModel):
    """An error as OpenAI writes it."""

    message: str = Field(
        description="For people: the field, the limit and the remedy.",
        examples=["temperature must be at most 2, not 3"],
    )
    type: str = Field(
        description="`invalid_request_error`, `rate_limit_error` or `server_error`.",
        examples=["invalid_request_error"],
    )
    param: str | None = Field(description="The field, where it is one.", examples=["temperature"])
    code: str | None = Field(description="For programs; stable.", examples=["invalid_request"])


class OpenAiError(BaseModel):
    """Why not."""

    error: OpenAiErrorObject = Field(
        description="What went wrong.",
        examples=[
            {
                "message": "temperature must be at most 2, not 3",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "invalid_request",
            }
        ],
    )


class OpenAiModel(BaseModel):
    """A model, or one of its versions."""

    id: str = Field(description="`name` or `name:version`.", examples=["generator:v1"])
    object: str = Field(description="Always `model`.", examples=["model"])
    created: int = Field(description="When the server started, Unix time.", examples=[1767225600])
    owned_by: str = Field(description="This server.", examples=["ai-inference-backend"])
    task: str = Field(description="What it does.", examples=["generate"])
    state: str = Field(description="As in `/health`.", examples=["ready"])


class OpenAiModels(BaseModel):
    """All of them."""

    object: str = Field(description="Always `list`.", examples=["list"])
    data: list[OpenAiModel] = Field(
        description="Each model under its name, then under each of its versions.",
        examples=[[{"id": "generator", "object": "model", "created": 1767225600}]],
    )
