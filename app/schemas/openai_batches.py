"""What `/v1/files` and `/v1/batches` take and give."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.openai_common import OpenAiFields, taken

EXAMPLE_FILE = "file-019d3a7c51e05b2f6c0d9e8a7b6c5d4e"
EXAMPLE_BATCH = "batch_019d3a7c51e05b2f6c0d9e8a7b6c5d4e"
MIN_KEEP_S, MAX_KEEP_S = 3600, 2_592_000
MAX_METADATA, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512
_TIME = 1767225600

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/classify",
    "/infer",
]
Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


class ExpiresAfter(BaseModel):
    """When a file is deleted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"] = Field(
        description="From when on it counts.", examples=["created_at"]
    )
    seconds: int = Field(
        ge=MIN_KEEP_S, le=MAX_KEEP_S, description="How long it is kept.", examples=[86_400]
    )


class OpenAiBatchBody(OpenAiFields):
    """A batch to be made of a file."""

    input_file_id: str = Field(
        min_length=1,
        max_length=64,
        description="A file with the purpose `batch`: JSON Lines, each with `custom_id`, `method` "
        "(`POST`), `url` (the endpoint) and `body`.",
        examples=[EXAMPLE_FILE],
    )
    endpoint: Endpoint = Field(
        description="The route that would answer each body at once; `/infer` is ours.",
        examples=["/v1/embeddings"],
    )
    completion_window: Literal["24h"] = Field(
        description="Time after which what is not done expires.", examples=["24h"]
    )
    metadata: dict[str, str] | None = taken(
        "Yours: up to 16 texts of up to 512 characters, under names of up to 64.",
        {"project": "reviews"},
        max_length=MAX_METADATA,
    )
    output_expires_after: ExpiresAfter | None = taken(
        "When its output files are deleted.", {"anchor": "created_at", "seconds": 86_400}
    )


class FileForm(BaseModel):
    """A file to be kept. Fields other than the file may come as `expires_after[seconds]`."""

    file: bytes = Field(
        description="The content, with a filename.",
        examples=["{}\n"],
        json_schema_extra={"format": "binary"},
    )
    purpose: Literal["batch"] = Field(description="What it is for.", examples=["batch"])
    expires_after: ExpiresAfter | None = Field(
        default=None,
        description="When it is deleted; else FILE_KEEP_S after its upload.",
        examples=[{"anchor": "created_at", "seconds": 86_400}],
    )


class OpenAiFile(BaseModel):
    """A file."""

    id: str = Field(description="Its name here.", examples=[EXAMPLE_FILE])
    object: str = Field(description="Always `file`.", examples=["file"])
    bytes: int = Field(description="Its size.", examples=[120_000])
    created_at: int = Field(description="Unix time.", examples=[_TIME])
    expires_at: int | None = Field(description="When it is deleted.", examples=[_TIME + 86_400])
    filename: str = Field(description="As it was sent.", examples=["requests.jsonl"])
    purpose: Literal["batch", "batch_output"] = Field(
        description="`batch_output`: made by a batch.", examples=["batch"]
    )
    status: str = Field(description="Always `processed`.", examples=["processed"])
    status_details: str | None = Field(description="Always null.", examples=[None])


class OpenAiFileDeleted(BaseModel):
    """A file that is gone."""

    id: str = Field(description="Its name.", examples=[EXAMPLE_FILE])
    object: str = Field(description="Always `file`.", examples=["file"])
    deleted: bool = Field(description="Always true.", examples=[True])


class _Page(BaseModel):
    object: str = Field(description="Always `list`.", examples=["list"])
    first_id: str | None = Field(description="Of the first; null: none.", examples=[None])
    last_id: str | None = Field(
        description="Of the last: send it as `after` for those that come next.", examples=[None]
    )
    has_more: bool = Field(description="Whether others come next.", examples=[False])


class OpenAiFiles(_Page):
    """Some of your files."""

    data: list[OpenAiFile] = Field(description="In the order asked for.", examples=[[]])


class BatchProblem(BaseModel):
    """Why a batch failed."""

    code: str = Field(description="For programs.", examples=["invalid_json_line"])
    message: str = Field(description="For people.", examples=["not valid JSON: truncated"])
    line: int | None = Field(description="Of the input file, from 1.", examples=[17])
    param: str | None = Field(description="The field of the line.", examples=["custom_id"])


class BatchProblems(BaseModel):
    """All that was found, up to 100."""

    object: str = Field(description="Always `list`.", examples=["list"])
    data: list[BatchProblem] = Field(description="In the order of the lines.", examples=[[]])


class BatchCounts(BaseModel):
    """Of the requests in the file."""

    total: int = Field(description="All; 0 before they have been counted.", examples=[1000])
    completed: int = Field(description="Answered with status 200.", examples=[990])
    failed: int = Field(description="Answered otherwise.", examples=[2])


def _when(what: str) -> Any:
    return Field(description=f"When it {what}, Unix time.", examples=[None])


class OpenAiBatch(BaseModel):
    """A batch."""

    id: str = Field(description="Its name.", examples=[EXAMPLE_BATCH])
    object: str = Field(description="Always `batch`.", examples=["batch"])
    endpoint: Endpoint = Field(description="Whose requests it has.", examples=["/v1/embeddings"])
    errors: BatchProblems | None = Field(description="Why it failed.", examples=[None])
    input_file_id: str = Field(description="The requests.", examples=[EXAMPLE_FILE])
    completion_window: str = Field(description="As it was sent.", examples=["24h"])
    status: Status = Field(description="Where it is.", examples=["in_progress"])
    output_file_id: str | None = Field(
        description="Answers with status 200, once it has ended and there are any.", examples=[None]
    )
    error_file_id: str | None = Field(
        description="The others, once it has ended and there are any.", examples=[None]
    )
    created_at: int = Field(description="Unix time.", examples=[_TIME])
    in_progress_at: int | None = _when("was found to be right")
    expires_at: int = Field(description="When it ends at the latest.", examples=[_TIME + 86_400])
    finalizing_at: int | None = _when("had run all requests")
    completed_at: int | None = _when("was completed")
    failed_at: int | None = _when("failed")
    expired_at: int | None = _when("expired")
    cancelling_at: int | None = _when("was asked to stop")
    cancelled_at: int | None = _when("had stopped")
    request_counts: BatchCounts = Field(
        description="How far it is.", examples=[{"total": 1000, "completed": 990, "failed": 2}]
    )
    metadata: dict[str, str] | None = Field(description="Yours.", examples=[None])


class OpenAiBatches(_Page):
    """Some of your batches, the latest first."""

    data: list[OpenAiBatch] = Field(description="The latest first.", examples=[[]])
