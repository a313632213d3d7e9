"""POST /v1/chat/completions and /v1/completions."""

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.openai_documented import documented_openai
from app.api.openai_route import (
    OpenAiCall,
    OpenAiRoute,
    Writing,
    answer,
    limits_of,
    read_call,
    streamed,
)
from app.schemas.openai_common import OpenAiError, texts_of
from app.schemas.openai_generation import (
    ChatAnswer,
    ChatBody,
    ChatChunk,
    CompletionAnswer,
    CompletionBody,
    CompletionChunk,
)
from app.schemas.request import Limits
from app.services.openai_chunks import ChatWriter, CompletionWriter
from app.services.openai_generation import (
    Head,
    asked_of_chat,
    asked_of_completion,
    chat_answer,
    completion_answer,
    new_id,
)

CHAT_STREAM = (ChatChunk, OpenAiError)
COMPLETION_STREAM = (CompletionChunk, OpenAiError)

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post(
    "/v1/chat/completions", **documented_openai(ChatAnswer, body=ChatBody, streams=CHAT_STREAM)
)
async def openai_chat(request: Request) -> Response:
    """Go on with a conversation, by the model's own chat template."""
    call = await read_call(request, ChatBody)
    wanted = chat(call, limits_of(request))
    if call.body.stream:
        return await streamed(request, call, wanted, named=False)
    return await answer(request, call, wanted)


def chat(call: OpenAiCall[ChatBody], _: Limits) -> Writing:
    """Raises InvalidRequest."""
    asked, head = asked_of_chat(call.given, call.found), _head("chatcmpl", call.key)
    return Writing(
        asked.requests,
        lambda answers: chat_answer(head, asked, answers[0]),
        asked,
        lambda: ChatWriter(head, asked),
    )


@router.post(
    "/v1/completions",
    **documented_openai(CompletionAnswer, body=CompletionBody, streams=COMPLETION_STREAM),
)
async def openai_completions(request: Request) -> Response:
    """Continue a text, or several, as they stand."""
    call = await read_call(request, CompletionBody)
    wanted = completions(call, limits_of(request))
    if call.body.stream:
        return await streamed(request, call, wanted, named=False)
    return await answer(request, call, wanted)


def completions(call: OpenAiCall[CompletionBody], limits: Limits) -> Writing:
    """Raises InvalidRequest."""
    prompts = texts_of(call.body.prompt, "prompt", limits.max_request_items)
    asked = asked_of_completion(call.given, call.found, prompts, limits.max_text_chars)
    head = _head("cmpl", call.key)
    return Writing(
        asked.requests,
        lambda answers: completion_answer(head, asked, answers),
        asked,
        lambda: CompletionWriter(head, asked),
    )


def _head(prefix: str, model: str) -> Head:
    return Head(new_id(prefix), int(time.time()), model)
