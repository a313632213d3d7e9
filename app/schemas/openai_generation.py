"""What `/v1/chat/completions` and `/v1/completions` take and give."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.openai_common import OpenAiBody, OpenAiUsage, Texts, examples, taken

_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {"role": {"enum": ["system", "developer", "user", "assistant", "tool"]}},
    "required": ["role"],
}
_QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "Name three colours."}]
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


class _Generation(OpenAiBody):
    """How the answer is written; what is left out is the model's own choice."""

    temperature: float | None = taken("Randomness; 0 takes the likeliest token each time.", 0.7)
    top_p: float | None = taken("Sample from the likeliest tokens of this probability.", 0.9)
    top_k: int | None = taken("Sample from so many of the likeliest tokens.", 40)
    min_p: float | None = taken("Leave out tokens less likely than this share of the best.", 0.05)
    n: int | None = taken("How many answers.", 1, ge=1)
    max_tokens: int | None = taken("Most tokens that are written.", 100, ge=1)
    min_tokens: int | None = taken("Fewest tokens before the end.", 0, ge=0)
    stop: str | list[str] | None = taken("Text, or up to four, that ends the answer.", "\n")
    seed: int | None = taken("Same seed and request, same answer.", 7)
    frequency_penalty: float | None = taken("Above 0: less of what has come, per time.", 0.0)
    presence_penalty: float | None = taken("Above 0: less of what has come, once.", 0.0)
    repetition_penalty: float | None = taken("Above 1: less of what has come, prompt too.", 1.0)
    logit_bias: dict[str, float] | None = taken("Added to the logits of token ids.", {"50": -100})
    stream: bool | None = taken("Send the answer as it is written.", False)
    stream_options: dict[str, Any] | None = taken(
        "`include_usage`: the last event tells the tokens.", {"include_usage": True}
    )
    user: str | None = taken("Yours; without effect. Fair shares go by `X-Caller-Id`.", "u-1")


class ChatBody(_Generation):
    """A conversation to go on with."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"model": "generator", "messages": _QUESTION, "max_tokens": 20},
            {"model": "generator", "messages": _QUESTION, "max_tokens": 20, "stream": True},
        )
    )

    messages: list[Any] = Field(
        description="Roles `system`, `developer`, `user`, `assistant`, `tool`; content as text or "
        "text parts. Rendered by the model's own chat template.",
        json_schema_extra={"items": _MESSAGE, "minItems": 1},
        examples=[_QUESTION],
    )
    max_completion_tokens: int | None = taken("The newer name of `max_tokens`.", 100, ge=1)
    logprobs: bool | None = taken("Tell how likely each token was.", False)
    top_logprobs: int | None = taken("And so many others at each place.", 2, ge=0)
    response_format: dict[str, Any] | None = taken(
        "`text`; `json_object` or `json_schema` where the model's runtime can.", {"type": "text"}
    )
    tools: list[Any] | None = taken("Functions, where the chat template knows tools.", [_TOOL])
    tool_choice: str | dict[str, Any] | None = taken(
        "`auto`, `none`, `required`, or a function by its name.", "auto"
    )
    parallel_tool_calls: bool | None = taken("Whether several calls may come at once.", True)
    functions: list[Any] | None = taken("Refused; send `tools`.", [])
    modalities: list[str] | None = taken("Only `text`.", ["text"])
    chat_template_kwargs: dict[str, Any] | None = taken(
        "Switches of the model's own template.", {"enable_thinking": False}
    )


class CompletionBody(_Generation):
    """A text to continue as it stands."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"model": "generator", "prompt": "Once upon a time", "max_tokens": 20},
            {"model": "generator", "prompt": "Once upon", "max_tokens": 20, "stream": True},
        )
    )

    prompt: Texts = Field(
        description="One text or several; each gets `n` choices.", examples=["Once upon a time"]
    )
    best_of: int | None = taken("Write so many, answer the `n` likeliest.", 1, ge=1)
    echo: bool | None = taken("Put the prompt in front.", False)
    logprobs: int | None = taken("How likely each token, and so many others, were.", 2, ge=0)
    suffix: str | None = taken("Refused.", "")


class ChatMessage(BaseModel):
    """A message of the model."""

    role: str = Field(description="Always `assistant`.", examples=["assistant"])
    content: str | None = Field(description="Its text.", examples=["Red, green, blue."])
    refusal: None = Field(default=None, description="Always null.", examples=[None])
    tool_calls: list[dict[str, Any]] | None = Field(
        default=None, description="Functions that it wants to be called.", examples=[[]]
    )


class ChatChoice(BaseModel):
    """One answer."""

    index: int = Field(description="From 0.", examples=[0])
    message: ChatMessage = Field(
        description="What the model says.", examples=[{"role": "assistant", "content": "Red."}]
    )
    logprobs: dict[str, Any] | None = Field(description="Where asked for.", examples=[None])
    finish_reason: str = Field(description="`stop`, `length` or `tool_calls`.", examples=["stop"])


class _Head(BaseModel):
    id: str = Field(description="Of this answer.", examples=["chatcmpl-5f0c6f6e"])
    created: int = Field(description="Unix time.", examples=[1767225600])
    model: str = Field(description="`name:version` that answered.", examples=["generator:v1"])


class _Completed(_Head):
    usage: OpenAiUsage = Field(
        description="Tokens in and out.",
        examples=[{"prompt_tokens": 31, "completion_tokens": 12, "total_tokens": 43}],
    )


class ChatAnswer(_Completed):
    """A chat completion."""

    object: str = Field(description="Always `chat.completion`.", examples=["chat.completion"])
    choices: list[ChatChoice] = Field(
        description="`n` of them.",
        examples=[[{"index": 0, "message": {"role": "assistant", "content": "Red."}}]],
    )


class _Chunk(_Head):
    usage: OpenAiUsage | None = Field(
        default=None, description="In the last chunk, where asked for.", examples=[None]
    )


class ChunkChoice(BaseModel):
    """What an answer is longer by."""

    index: int = Field(description="Which answer, from 0.", examples=[0])
    delta: dict[str, Any] = Field(
        description="`role` first, then `content` or `tool_calls`; empty at the end.",
        examples=[{"content": " green"}],
    )
    logprobs: dict[str, Any] | None = Field(
        description="At the end, where asked for.", examples=[None]
    )
    finish_reason: str | None = Field(description="At the end.", examples=[None])


class ChatChunk(_Chunk):
    """A part of a chat completion."""

    object: str = Field(
        description="Always `chat.completion.chunk`.", examples=["chat.completion.chunk"]
    )
    choices: list[ChunkChoice] = Field(
        description="One; none in the last chunk, if that tells the usage.",
        examples=[[{"index": 0, "delta": {"content": " green"}, "finish_reason": None}]],
    )


class _Continuation(BaseModel):
    index: int = Field(description="From 0, prompt by prompt.", examples=[0])
    text: str = Field(description="The continuation.", examples=[" there was a king."])
    logprobs: dict[str, Any] | None = Field(description="Where asked for.", examples=[None])


class CompletionChoice(_Continuation):
    """One continuation."""

    finish_reason: str = Field(description="`stop` or `length`.", examples=["length"])


class CompletionAnswer(_Completed):
    """A completion."""

    object: str = Field(description="Always `text_completion`.", examples=["text_completion"])
    choices: list[CompletionChoice] = Field(
        description="`n` for each prompt.", examples=[[{"index": 0, "text": " there was"}]]
    )


class CompletionChunkChoice(_Continuation):
    """What a continuation is longer by."""

    finish_reason: str | None = Field(description="At the end.", examples=[None])


class CompletionChunk(_Chunk):
    """A part of a completion."""

    object: str = Field(description="Always `text_completion`.", examples=["text_completion"])
    choices: list[CompletionChunkChoice] = Field(
        description="One; none in the last chunk, if that tells the usage.",
        examples=[[{"index": 0, "text": " there", "finish_reason": None}]],
    )
