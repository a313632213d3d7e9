"""/v1/batches: files of requests that are answered whenever there is time."""

import re
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.body import read_json
from app.api.deps import asker_of, note, services_of, settings_of
from app.api.envelope import JsonResponse
from app.api.openai_documented import BATCH, BATCHES, NEW_BATCH, documented_openai
from app.api.openai_files import FILE_ID
from app.api.openai_pages import page_of, shown_page
from app.api.openai_route import OpenAiRoute, answered
from app.batches.status import Batch, BatchStatus
from app.core.errors import BatchNotFound, InvalidRequest, StoredFileNotFound
from app.schemas.openai_batches import (
    MAX_KEY_CHARS,
    MAX_VALUE_CHARS,
    OpenAiBatch,
    OpenAiBatchBody,
    OpenAiBatches,
)
from app.schemas.openai_common import parse_openai

BATCH_ID = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)
USUAL_PAGE, MAX_PAGE = 20, 100
MAX_VALUES = 200
_ENDS = {
    "completed_at": BatchStatus.COMPLETED,
    "failed_at": BatchStatus.FAILED,
    "expired_at": BatchStatus.EXPIRED,
    "cancelled_at": BatchStatus.CANCELLED,
}

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post("/v1/batches", **documented_openai(OpenAiBatch, **NEW_BATCH))
async def openai_create_batch(request: Request) -> Response:
    """Have the requests of a file answered, in the class `batch`.

    The file is checked after this, line by line: a batch with a line that is wrong is `failed`,
    and `errors` tells each line. Of a body that is wrong only the answer fails.
    """
    asker, settings = asker_of(request), settings_of(request)
    value = await read_json(request, max_bytes=settings.max_body_bytes, max_values=MAX_VALUES)
    body = parse_openai(OpenAiBatchBody, value)
    request.scope["openai_ignored"] = body.ignored()
    _check_metadata(body.metadata or {})
    if not FILE_ID.fullmatch(body.input_file_id):
        raise StoredFileNotFound
    expiry = body.output_expires_after
    batch = await services_of(request).batches.create(
        asker.caller,
        body.endpoint,
        body.input_file_id,
        body.metadata,
        None if expiry is None else expiry.seconds,
        asker.models,
    )
    note(request, batch=batch.id)
    return answered(request, _shown(batch))


@router.get("/v1/batches", **documented_openai(OpenAiBatches, **BATCHES))
async def openai_batches(request: Request) -> Response:
    """Your batches, the latest first."""
    caller = asker_of(request).caller
    page = page_of(request, caller, BATCH_ID, usual=USUAL_PAGE, most=MAX_PAGE)
    found = await services_of(request).batches.batches(page)
    return JsonResponse(shown_page(found, page, _shown))


@router.get("/v1/batches/{batch_id}", **documented_openai(OpenAiBatch, **BATCH))
async def openai_batch(request: Request) -> Response:
    """A batch as it is."""
    batch_id, caller = _id_of(request), asker_of(request).caller
    return JsonResponse(_shown(await services_of(request).batches.batch(caller, batch_id)))


@router.post("/v1/batches/{batch_id}/cancel", **documented_openai(OpenAiBatch, **BATCH))
async def openai_cancel_batch(request: Request) -> Response:
    """Stop a batch; what was answered is kept. One that has ended stays as it is: 409."""
    batch_id, caller = _id_of(request), asker_of(request).caller
    return JsonResponse(_shown(await services_of(request).batches.cancel(caller, batch_id)))


def _check_metadata(metadata: dict[str, str]) -> None:
    for key, value in metadata.items():
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            raise InvalidRequest(
                f"metadata has a name of more than {MAX_KEY_CHARS} or a text of more than "
                f"{MAX_VALUE_CHARS} characters"
            )


def _id_of(request: Request) -> str:
    """Raises BatchNotFound for what cannot be one."""
    batch_id: str = request.path_params["batch_id"]
    if not BATCH_ID.fullmatch(batch_id):
        raise BatchNotFound
    return batch_id


def _shown(batch: Batch) -> dict[str, Any]:
    has_ended = not batch.status.is_open
    problems = [asdict(problem) for problem in batch.problems]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_id if has_ended else None,
        "error_file_id": batch.error_id if has_ended else None,
        "created_at": int(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": int(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        **{
            name: _seconds(batch.ended_at) if batch.status is status else None
            for name, status in _ENDS.items()
        },
        "request_counts": asdict(batch.counts),
        "metadata": batch.metadata,
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
