"""/v1/files: requests for batches, and what became of them."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.api.deps import BatchService, asker_of, note, services_of, settings_of
from app.api.envelope import JsonResponse
from app.api.openai_documented import CONTENT, FILE, FILES, UPLOAD, documented_openai
from app.api.openai_pages import page_of, shown_page
from app.api.openai_route import OpenAiRoute, answered
from app.api.uploads import FORM_BYTES, FileForm, too_large
from app.batches.status import Purpose, StoredFile
from app.core.errors import Cancelled, InvalidRequest, StoredFileNotFound
from app.schemas.openai_batches import ExpiresAfter, OpenAiFile, OpenAiFileDeleted, OpenAiFiles
from app.schemas.problems import refusal

FILE_ID = re.compile(r"file-[0-9a-f]{32}", re.ASCII)
MAX_PAGE = 10_000
_WRITE_BYTES = 2**20
_OUTSIDE_NAMES = re.compile(r'[^ -~]|["\\]', re.ASCII)
_EXPIRY = re.compile(r"expires_after\[(\w{1,16})\]", re.ASCII)

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post("/v1/files", **documented_openai(OpenAiFile, **UPLOAD))
async def openai_upload(request: Request) -> Response:
    """Keep a file of requests for a batch. It is written to the disk while it comes."""
    asker = asker_of(request)
    most = settings_of(request).max_file_bytes
    form = FileForm(request.headers.get("content-type", ""), most)
    declared = int(request.headers.get("content-length", "0"))
    if declared > most + FORM_BYTES:
        raise too_large(most)
    least = max(1, declared - FORM_BYTES)
    async with services_of(request).batches.receiving(asker.caller, least) as upload:
        async with aclosing(_file_bytes(request, form, most + FORM_BYTES)) as pieces:
            async for data in pieces:
                await upload.write(data)
        form.finish()
        keep_s = _checked(request, form.fields)
        file = await upload.keep(form.filename or "", keep_s)
    note(request, file=file.id, bytes=file.size)
    return answered(request, _shown(file))


@router.get("/v1/files", **documented_openai(OpenAiFiles, **FILES))
async def openai_files(request: Request) -> Response:
    """Your files, the latest first."""
    caller = asker_of(request).caller
    page = page_of(request, caller, FILE_ID, usual=MAX_PAGE, most=MAX_PAGE)
    found = await services_of(request).batches.files(page)
    return JsonResponse(shown_page(found, page, _shown))


@router.get("/v1/files/{file_id}", **documented_openai(OpenAiFile, **FILE))
async def openai_file(request: Request) -> Response:
    """What is known of a file."""
    return JsonResponse(_shown(await _file_of(request)))


@router.get("/v1/files/{file_id}/content", **documented_openai(OpenAiFile, **CONTENT))
async def openai_file_content(request: Request) -> Response:
    """The file itself."""
    file = await _file_of(request)
    content = services_of(request).batches.content(file)
    first = await anext(content, b"")
    name = _OUTSIDE_NAMES.sub("_", file.filename)
    headers = {
        "content-length": str(file.size),
        "content-disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(_whole(first, content), 200, headers, "application/octet-stream")


@router.delete("/v1/files/{file_id}", **documented_openai(OpenAiFileDeleted, **FILE))
async def openai_delete_file(request: Request) -> Response:
    """Delete a file. One that a batch reads is not: 409."""
    file_id = _id_of(request)
    await services_of(request).batches.delete_file(asker_of(request).caller, file_id)
    return JsonResponse({"id": file_id, "object": "file", "deleted": True})


async def _file_bytes(request: Request, form: FileForm, most: int) -> AsyncGenerator[bytes, None]:
    """What belongs to the file, in pieces of a good size for the disk.

    Raises Cancelled when the client leaves, BodyTooLarge, and what the form raises.
    """
    pieces: list[bytes] = []
    size = total = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Cancelled()
        data, more = message.get("body", b""), message.get("more_body", False)
        total += len(data)
        if total > most:
            raise too_large(settings_of(request).max_file_bytes)
        pieces += form.feed(data)
        size += len(data)
        if size >= _WRITE_BYTES or not more:
            yield b"".join(pieces)
            request.scope["release_body"](size)
            pieces, size = [], 0


def _checked(request: Request, fields: Mapping[str, str]) -> float | None:
    """How long the file is to be kept, where the form says that. Raises InvalidRequest."""
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose is missing; send batch")
    if purpose != Purpose.BATCH:
        raise InvalidRequest(f"purpose is {purpose[:64]!r}; files are kept for batch alone")
    parts = {found[1]: fields[name] for name in fields if (found := _EXPIRY.fullmatch(name))}
    known = ("purpose", "expires_after")
    request.scope["openai_ignored"] = [
        name for name in fields if name not in known and not _EXPIRY.fullmatch(name)
    ]
    expiry = _object(fields["expires_after"]) if "expires_after" in fields else parts or None
    if expiry is None:
        return None
    try:
        return ExpiresAfter.model_validate(expiry).seconds
    except ValidationError as error:
        raise refusal(error, "expires_after") from None


def _object(text: str) -> dict[str, Any] | None:
    """What a field of the form holds, if it comes as one and not in parts. Raises
    InvalidRequest."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any] | None)
    except msgspec.DecodeError:
        raise InvalidRequest(
            "expires_after is no JSON object; send expires_after[anchor] and expires_after[seconds]"
        ) from None


async def _whole(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for data in rest:
            yield data


async def _file_of(request: Request) -> StoredFile:
    batches: BatchService = services_of(request).batches
    return await batches.file(asker_of(request).caller, _id_of(request))


def _id_of(request: Request) -> str:
    """Raises StoredFileNotFound for what cannot be one."""
    file_id: str = request.path_params["file_id"]
    if not FILE_ID.fullmatch(file_id):
        raise StoredFileNotFound
    return file_id


def _shown(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose.value,
        "status": "processed",
        "status_details": None,
    }
