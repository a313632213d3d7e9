"""POST /v1/responses: its stateless part."""

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.openai_documented import documented_openai
from app.api.openai_route import OpenAiRoute, answered, infer, read_call, streamed
from app.schemas.openai_responses import ResponsesAnswer, ResponsesBody, ResponsesEvent
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
    asked = asked_of_response(call.given, call.found)
    head = Head(new_id("resp"), int(time.time()), f"{call.found.name}:{call.found.version}")
    if call.body.stream:
        return await streamed(request, call, asked, ResponseWriter(head, asked), named=True)
    (answer,) = await infer(request, call, asked.requests)
    return answered(request, response_answer(head, asked, answer))
