"""What `/v1/responses` takes and gives: its stateless part."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.openai_common import OpenAiBody, examples, taken

_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
_OUTPUT = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Red.", "annotations": []}],
}


class ResponsesBody(OpenAiBody):
    """What to answer. Nothing is kept between requests: send the whole conversation."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"model": "generator", "input": "Name three colours.", "max_output_tokens": 20},
            {"model": "generator", "input": "Name one.", "max_output_tokens": 20, "stream": True},
        )
    )

    input: str | list[Any] = Field(
        description="A text, or items: messages, function calls and their outputs.",
        examples=["Name three colours."],
    )
    instructions: str | None = taken("The system message.", "Be brief.")
    max_output_tokens: int | None = taken("Most tokens that are written.", 100, ge=1)
    temperature: float | None = taken("Randomness; 0 takes the likeliest token each time.", 0.7)
    top_p: float | None = taken("Sample from the likeliest tokens of this probability.", 0.9)
    top_k: int | None = taken("Sample from so many of the likeliest tokens.", 40)
    min_p: float | None = taken("Leave out tokens less likely than this share of the best.", 0.05)
    seed: int | None = taken("Same seed and request, same answer.", 7)
    stream: bool | None = taken("Send events while the answer is written.", False)
    text: dict[str, Any] | None = taken(
        "`format`: `text`; `json_object` or `json_schema` where the model's runtime can.",
        {"format": {"type": "text"}},
    )
    tools: list[Any] | None = taken("Functions, where the chat template knows tools.", [_TOOL])
    tool_choice: str | dict[str, Any] | None = taken(
        "`auto`, `none`, `required`, or a function by its name.", "auto"
    )
    parallel_tool_calls: bool | None = taken("Whether several calls may come at once.", True)
    top_logprobs: int | None = taken("Only 0.", 0, ge=0)
    truncation: str | None = taken("Only `disabled`.", "disabled")
    previous_response_id: str | None = taken("Refused: nothing is kept.", None)
    conversation: str | dict[str, Any] | None = taken("Refused: nothing is kept.", None)
    background: bool | None = taken("Only false.", False)
    store: bool | None = taken("Without effect: nothing is kept.", False)
    metadata: dict[str, Any] | None = taken("Yours; comes back.", {"order": "4711"})
    user: str | None = taken("Yours; without effect.", "u-1")


class ResponsesUsage(BaseModel):
    """Tokens as the model's own tokenizer counts them."""

    input_tokens: int = Field(description="Of the input.", examples=[31])
    output_tokens: int = Field(description="That were written.", examples=[12])
    total_tokens: int = Field(description="Both together.", examples=[43])


class ResponsesAnswer(BaseModel):
    """A response."""

    id: str = Field(description="Of this response.", examples=["resp_5f0c6f6e"])
    object: str = Field(description="Always `response`.", examples=["response"])
    created_at: int = Field(description="Unix time.", examples=[1767225600])
    status: str = Field(
        description="`completed`, or `incomplete` where a limit ended it.", examples=["completed"]
    )
    model: str = Field(description="`name:version` that answered.", examples=["generator:v1"])
    output: list[dict[str, Any]] = Field(
        description="A message, or function calls.", examples=[[_OUTPUT]]
    )
    usage: ResponsesUsage = Field(
        description="Tokens in and out.",
        examples=[{"input_tokens": 31, "output_tokens": 12, "total_tokens": 43}],
    )


class ResponsesEvent(BaseModel):
    """A part of a response; its further fields are those of its type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="The event's name, `error` where it failed.",
        examples=["response.output_text.delta"],
    )
    sequence_number: int | None = Field(
        default=None, description="From 0; of an error there is none.", examples=[4]
    )
