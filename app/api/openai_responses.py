"""POST /v1/responses: its stateless part."""

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
from app.schemas.openai_responses import ResponsesAnswer, ResponsesBody, ResponsesEvent
from app.schemas.request import Limits
from app.services.openai_generation import Head, new_id
from app.services.openai_responses import ResponseWriter, asked_of_response, response_answer

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post(
    "/v1/responses",
    **documented_openai(ResponsesAnswer, body=ResponsesBody, streams=ResponsesEvent),
)
async def openai_responses(request: Request) -> Response:
    """Answer a text or a conversation; nothing is kept between requests."""
    call = await read_call(request, ResponsesBody)
    wanted = responses(call, limits_of(request))
    if call.body.stream:
        return await streamed(request, call, wanted, named=True)
    return await answer(request, call, wanted)


def responses(call: OpenAiCall[ResponsesBody], _: Limits) -> Writing:
    """Raises InvalidRequest."""
    asked = asked_of_response(call.given, call.found)
    head = Head(new_id("resp"), int(time.time()), call.key)
    return Writing(
        asked.requests,
        lambda answers: response_answer(head, asked, answers[0]),
        asked,
        lambda: ResponseWriter(head, asked),
    )
