"""What only the routes of jobs have, for the OpenAPI document."""

from typing import Any

from app.api.documented_parameters import CALLER, INFERENCE, ONCE_KEY, REQUEST_ID, query
from app.api.documented_streams import Payloads
from app.schemas.jobs import EXAMPLE_JOB, JobAnswer, JobShape
from app.schemas.response import ErrorAnswer

_LOCATION = {
    "Location": {
        "description": "Path of the job.",
        "schema": {"type": "string"},
        "example": f"/jobs/{EXAMPLE_JOB}",
    },
    "Idempotent-Replayed": {
        "description": "`true` where the job had been accepted before, with the same key.",
        "schema": {"type": "string"},
    },
}
SUBMITTED: dict[str, Any] = {
    "status": 202,
    "parameters": [*INFERENCE, ONCE_KEY],
    "headers": _LOCATION,
}
JOB: dict[str, Any] = {"parameters": [REQUEST_ID, CALLER], "failures": (404, 422, 500, 503)}
WAIT: dict[str, Any] = {
    **JOB,
    "parameters": [
        *JOB["parameters"],
        query(
            "wait",
            "Seconds to wait for the end of the job.",
            {"type": "number", "minimum": 0, "maximum": 60},
            10,
        ),
    ],
}
LIST: dict[str, Any] = {
    "failures": (422, 500, 503),
    "parameters": [
        *JOB["parameters"],
        query(
            "state",
            "Only jobs in this state.",
            {"type": "string", "enum": JobShape.model_json_schema()["properties"]["state"]["enum"]},
            "succeeded",
        ),
        query("model", "Only jobs that ask this model alone.", {"type": "string"}, "sentiment"),
        query(
            "limit",
            "Most jobs to be answered.",
            {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            20,
        ),
        query(
            "cursor",
            "Where to go on: `next_cursor` of the page before.",
            {"type": "string", "pattern": "^job_[0-9a-f]{32}$"},
            EXAMPLE_JOB,
        ),
    ],
}
STREAM: Payloads = {"progress": JobShape, "end": JobAnswer, "error": ErrorAnswer}
EVENTS: dict[str, Any] = {**JOB, "streams": STREAM, "streams_only": True}
