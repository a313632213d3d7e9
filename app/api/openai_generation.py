"""POST /v1/chat/completions and /v1/completions."""

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import settings_of
from app.api.openai_documented import documented_openai
from app.api.openai_route import OpenAiRoute, answered, infer, read_call, streamed
from app.schemas.openai_common import OpenAiError, texts_of
from app.schemas.openai_generation import (
    ChatAnswer,
    ChatBody,
    ChatChunk,
    CompletionAnswer,
    CompletionBody,
    CompletionChunk,
)
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
    asked = asked_of_chat(call.given, call.found)
    head = _head("chatcmpl", f"{call.found.name}:{call.found.version}")
    if call.body.stream:
        return await streamed(request, call, asked, ChatWriter(head, asked), named=False)
    (answer,) = await infer(request, call, asked.requests)
    return answered(request, chat_answer(head, asked, answer))


@router.post(
    "/v1/completions",
    **documented_openai(CompletionAnswer, body=CompletionBody, streams=COMPLETION_STREAM),
)
async def openai_completions(request: Request) -> Response:
    """Continue a text, or several, as they stand."""
    call = await read_call(request, CompletionBody)
    settings = settings_of(request)
    prompts = texts_of(call.body.prompt, "prompt", settings.max_request_items)
    asked = asked_of_completion(call.given, call.found, prompts, settings.max_text_chars)
    head = _head("cmpl", f"{call.found.name}:{call.found.version}")
    if call.body.stream:
        return await streamed(request, call, asked, CompletionWriter(head, asked), named=False)
    answers = await infer(request, call, asked.requests)
    return answered(request, completion_answer(head, asked, answers))


def _head(prefix: str, model: str) -> Head:
    return Head(new_id(prefix), int(time.time()), model)
