"""/jobs: requests that are accepted now and answered later."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.body import read_json
from app.api.deps import (
    PRIORITIES,
    asker_of,
    note,
    request_id_of,
    services_of,
    settings_of,
    timeout_ms_of,
)
from app.api.disconnect import run_unless_gone
from app.api.documented import documented
from app.api.documented_jobs import EVENTS, JOB, LIST, SUBMITTED, WAIT
from app.api.envelope import JsonResponse, error_object, failure
from app.api.inference import limits_of
from app.api.job_work import Work
from app.api.once import REPLAYED, once_of
from app.api.openai_route import VALUES_PER_REQUEST
from app.api.plain_route import PlainRoute
from app.api.sse import event, opened, sse_response
from app.core.errors import InvalidRequest, JobNotFound, ServingError
from app.core.types import Asker
from app.jobs.status import SHOWN, JobState, JobView, NewJob, Webhook
from app.jobs.store import Page
from app.jobs.webhooks import check_url
from app.schemas.jobs import JobAnswer, JobBody, JobsAnswer, parse_job
from app.schemas.request import BatchBody, InferBody

MAX_WAIT_S, MAX_PAGE, USUAL_PAGE = 60.0, 100, 20
_ID = re.compile(r"job_[0-9a-f]{32}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,4}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", re.ASCII)
_PRIORITY_NAMES = {priority: name for name, priority in PRIORITIES.items()}
_encode = msgspec.msgpack.Encoder().encode

router = APIRouter(tags=["jobs"], route_class=PlainRoute)


@router.post("/jobs", **documented(JobAnswer, body=(InferBody, BatchBody, JobBody), **SUBMITTED))
async def submit_job(request: Request) -> Response:
    """Accept a request of `/infer` or `/infer/batch` as it is, or of any route in a frame.

    It is checked as the live route checks it, and kept before this is answered. With an
    `Idempotency-Key` that came before, the job of that time is told again.
    """
    timeout_ms, asker = timeout_ms_of(request), asker_of(request)
    settings = settings_of(request)
    max_values = VALUES_PER_REQUEST + settings.max_tensor_values + 100 * settings.max_request_items
    value = await read_json(request, max_bytes=settings.max_body_bytes, max_values=max_values)
    once = once_of(request, "/jobs", asker, value)
    body = parse_job(value)
    services = services_of(request)
    work = Work(services.inference, services.models, limits_of(settings), lambda: True)
    read = work.check(body.endpoint, body.body)
    if body.webhook is not None:
        check_url(body.webhook.url, allows_private=settings.webhook_allow_private)
    timeout_s = min(body.timeout_s or settings.job_timeout_s, (timeout_ms or 1e12) / 1000)
    job = NewJob(
        caller=asker.caller,
        endpoint=body.endpoint,
        request=_encode(body.body),
        timeout_s=timeout_s,
        inputs=max(1, len(read.requests)),
        model=read.model,
        priority=asker.priority,
        request_id=request_id_of(request),
        webhook=Webhook(body.webhook.url, body.webhook.secret) if body.webhook else None,
    )
    view, is_new = await services.jobs.submit(job, once)
    note(request, job=view.id)
    headers = {"Location": f"/jobs/{view.id}", **({} if is_new else REPLAYED)}
    return JsonResponse(await _told(request, view), 202, headers)


@router.get("/jobs", **documented(JobsAnswer, **LIST))
async def list_jobs(request: Request) -> Response:
    """Your own jobs, the latest first, without their results."""
    page = _page(request, asker_of(request))
    views = list(await services_of(request).jobs.page(page))
    more = len(views) == page.limit
    shown = [_shown(view) for view in views]
    return JsonResponse({"jobs": shown, "next_cursor": views[-1].id if more else None})


@router.get("/jobs/{job_id}", **documented(JobAnswer, **WAIT))
async def get_job(request: Request) -> Response:
    """A job as it is; with `wait`, as soon as it has ended, or after so many seconds."""
    job_id, caller = _job_id(request), asker_of(request).caller
    wait_s = _wait_s(request)
    jobs = services_of(request).jobs
    if wait_s is None:
        view = await jobs.get(caller, job_id)
    else:
        view = await run_unless_gone(request, jobs.wait(caller, job_id, wait_s))
    return JsonResponse(await _told(request, view))


@router.delete("/jobs/{job_id}", **documented(JobAnswer, **JOB))
async def cancel_job(request: Request) -> Response:
    """Stop a job. One that waits has ended then; one that runs ends soon, see its state.

    A job that has ended stays as it is.
    """
    caller = asker_of(request).caller
    view = await services_of(request).jobs.cancel(caller, _job_id(request))
    return JsonResponse(await _told(request, view))


@router.get("/jobs/{job_id}/events", **documented(JobAnswer, **EVENTS))
async def job_events(request: Request) -> Response:
    """A job and its changes as server-sent events: `progress`, and last `end` with its result."""
    caller, job_id = asker_of(request).caller, _job_id(request)
    changes = await opened(request, services_of(request).jobs.changes(caller, job_id))
    return sse_response(request, _events(request, changes))


async def _events(
    request: Request, changes: AsyncGenerator[JobView, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(changes):
        try:
            async for view in changes:
                if view.state.is_final:
                    yield event(await _told(request, view), "end")
                else:
                    yield event(_shown(view), "progress")
        except ServingError as error:
            yield event(failure(error_object(error), request_id_of(request)), "error")


def webhook_body(view: JobView) -> bytes:
    """The message that a job has ended: the job without its result, which is to be fetched."""
    return msgspec.json.encode({"type": "job.ended", "job": _shown(view)})


async def _told(request: Request, view: JobView) -> dict[str, Any]:
    """With its result, which is JSON already."""
    body = await services_of(request).jobs.result(view)
    return {**_shown(view), "result": None if body is None else msgspec.Raw(body)}


def _shown(view: JobView) -> dict[str, Any]:
    problem = view.problem
    return {
        "id": view.id,
        "state": view.state.shown.value,
        "endpoint": view.endpoint,
        "model": view.model,
        "priority": _PRIORITY_NAMES[view.priority],
        "progress": {"total": view.inputs, "done": view.done, "failed": view.failed},
        "attempts": view.attempts,
        "cancelling": view.is_cancelling and not view.state.is_final,
        "submitted_at": _time(view.submitted_at),
        "started_at": _time(view.started_at),
        "finished_at": _time(view.finished_at),
        "next_attempt_at": _time(view.run_at),
        "deadline_at": _time(view.deadline_at),
        "expires_at": _time(view.expires_at),
        "error": {"code": problem.code, "message": problem.message} if problem else None,
        "request_id": view.request_id,
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _job_id(request: Request) -> str:
    """Raises JobNotFound for what cannot be one."""
    job_id: str = request.path_params["job_id"]
    if not _ID.fullmatch(job_id):
        raise JobNotFound
    return job_id


def _wait_s(request: Request) -> float | None:
    """Raises InvalidRequest."""
    given = _queried(request, "wait").get("wait")
    if given is None:
        return None
    if not _SECONDS.fullmatch(given) or float(given) > MAX_WAIT_S:
        raise InvalidRequest(f"wait is {given[:64]!r}; send 0 to {MAX_WAIT_S:g} seconds")
    return float(given)


def _page(request: Request, asker: Asker) -> Page:
    """Raises InvalidRequest that names the parameter."""
    given = _queried(request, "state", "model", "cursor", "limit")
    state, cursor, limit = given.get("state"), given.get("cursor"), given.get("limit")
    if state is not None and state not in SHOWN:
        raise InvalidRequest(f"state is {state[:64]!r}; send one of {', '.join(SHOWN)}")
    if cursor is not None and not _ID.fullmatch(cursor):
        raise InvalidRequest("cursor is not one that was answered; send the last next_cursor")
    if limit is not None and not (_WHOLE.fullmatch(limit) and 1 <= int(limit) <= MAX_PAGE):
        raise InvalidRequest(f"limit is {limit[:64]!r}; send a whole number from 1 to {MAX_PAGE}")
    return Page(
        asker.caller,
        int(limit or USUAL_PAGE),
        None if state is None else JobState(state),
        given.get("model"),
        cursor,
    )


def _queried(request: Request, *names: str) -> Mapping[str, str]:
    """Raises InvalidRequest for another parameter, and for one that comes twice."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            raise InvalidRequest(
                f"there is no parameter {name[:64]!r}; there are {', '.join(names)}"
            )
        if name in given:
            raise InvalidRequest(f"{name} is given twice; send it once")
        if "\0" in value:
            raise InvalidRequest(f"{name} holds the character U+0000; take it out")
        given[name] = value
    return given
