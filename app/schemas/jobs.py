"""What callers send to /jobs, and what they are told of a job."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from app.schemas.problems import InvalidFields, refusal
from app.schemas.response import EXAMPLE_ID, EXAMPLE_TIME, ErrorObject

EXAMPLE_JOB = "job_019d3a7c51e05b2f6c0d9e8a7b6c5d4e"
Endpoint = Literal[
    "/infer",
    "/infer/batch",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/classify",
    "/v1/rerank",
    "/v1/score",
]
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
MAX_TIMEOUT_S = 604_800.0
MIN_SECRET_CHARS, MAX_SECRET_CHARS, MAX_URL_CHARS = 16, 256, 2048

_SENTIMENT: JsonDict = {
    "text": "I love this AI inference backend! It works perfectly.",
    "model": "sentiment",
}


class WebhookBody(BaseModel):
    """Whom to tell when the job has ended."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str = Field(
        min_length=8,
        max_length=MAX_URL_CHARS,
        description="An `https://` or `http://` address; private ones are refused unless the "
        "server allows them.",
        examples=["https://example.com/hooks/inference"],
    )
    secret: str = Field(
        min_length=MIN_SECRET_CHARS,
        max_length=MAX_SECRET_CHARS,
        description="What messages are signed with; it is never shown again.",
        examples=["an-example-of-16-or-more"],
    )


class JobBody(BaseModel):
    """A request of another route, to be run as a job."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"endpoint": "/infer", "body": _SENTIMENT}]},
    )

    endpoint: Endpoint = Field(
        description="The route that would answer the body at once.", examples=["/v1/embeddings"]
    )
    body: dict[str, Any] = Field(
        description="As it would be sent there, without `stream`.",
        examples=[{"model": "embedder", "input": ["a cat", "a dog"]}],
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_S,
        description="Time from now after which nobody wants the result; null: the server's own.",
        examples=[3600],
    )
    webhook: WebhookBody | None = Field(
        default=None,
        description="Whom to tell when the job has ended.",
        examples=[
            {
                "url": "https://example.com/hooks/inference",
                "secret": "an-example-of-16-or-more",
            }
        ],
    )


def parse_job(value: Any) -> JobBody:
    """A request of /infer or /infer/batch as it is, or one of any route in a frame.

    Raises InvalidRequest for a frame that is wrong; what is in it is not looked at.
    """
    if not isinstance(value, dict):
        raise InvalidFields([{"field": "body", "problem": "must be an object"}])
    if "endpoint" not in value:
        endpoint: Endpoint = "/infer/batch" if "requests" in value else "/infer"
        return JobBody(endpoint=endpoint, body=value)
    try:
        return JobBody.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Progress(_Shape):
    """How many of the inputs have been answered."""

    total: int = Field(description="Inputs of the job.", examples=[2])
    done: int = Field(description="Those that were answered, failures included.", examples=[1])
    failed: int = Field(description="Those of them that failed.", examples=[0])


class JobShape(_Shape):
    """A job without its result."""

    id: str = Field(description="Its name.", examples=[EXAMPLE_JOB])
    state: State = Field(description="Where it is; the last four are ends.", examples=["running"])
    endpoint: Endpoint = Field(description="Whose request it is.", examples=["/infer/batch"])
    model: str | None = Field(
        description="The model that is asked; null where several are.", examples=["sentiment"]
    )
    priority: Literal["interactive", "normal", "batch"] = Field(
        description="Its class.", examples=["normal"]
    )
    progress: Progress = Field(
        description="How far it is.", examples=[{"total": 2, "done": 1, "failed": 0}]
    )
    attempts: int = Field(description="How often it was begun.", examples=[1])
    cancelling: bool = Field(
        description="Whether it is being stopped on request.", examples=[False]
    )
    submitted_at: str = Field(description="UTC.", examples=[EXAMPLE_TIME])
    started_at: str | None = Field(description="When it first ran.", examples=[EXAMPLE_TIME])
    finished_at: str | None = Field(description="When it ended.", examples=[None])
    next_attempt_at: str | None = Field(
        description="When it is tried again, where it could not be run.", examples=[None]
    )
    deadline_at: str = Field(
        description="When it expires, unless it has ended by then.", examples=[EXAMPLE_TIME]
    )
    expires_at: str | None = Field(
        description="When it and its result are deleted, once it has ended.", examples=[None]
    )
    error: ErrorObject | None = Field(
        description="Why it failed, or could not be run when it was last tried.", examples=[None]
    )
    request_id: str = Field(
        description="Of the request that submitted it; its result has it, too.",
        examples=[EXAMPLE_ID],
    )


class JobAnswer(JobShape):
    """A job."""

    result: Any = Field(
        description="What the route of its request would have answered, once it has succeeded; "
        "else null.",
        examples=[None],
    )


class JobsAnswer(_Shape):
    """Some of your jobs, the latest first."""

    jobs: list[JobShape] = Field(description="Without results.", examples=[[]])
    next_cursor: str | None = Field(
        description="Send it as `cursor` for those that come next; null: there are none.",
        examples=[EXAMPLE_JOB],
    )
