"""What lines of batches mean: bodies of the live routes, read and answered as those do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.api import answers
from app.api.body import decode
from app.api.deps import InferenceService
from app.api.envelope import error_object as our_error
from app.api.envelope import failure
from app.api.errors import shown_to_caller, status_of
from app.api.inference import wanted_of
from app.api.openai_calls import no_stream, read_openai
from app.api.openai_route import error_object, find_in, openai_status
from app.batches.results import Reply
from app.batches.status import Batch, Problem
from app.core.errors import DeadlineExceeded, ServingError, TryLater
from app.core.types import Answer, Asker, Done, Failed, Priority
from app.keys.key import is_key_id
from app.schemas.request import Limits, parse_infer
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.visible_models import Models
from app.services.openai_texts import require_task

INFER = "/infer"
_TASKS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("generate",),
    "/v1/completions": ("generate",),
    "/v1/responses": ("generate",),
    "/v1/embeddings": ("embed",),
    "/v1/classify": ("classify",),
}
ENDPOINTS = (*_TASKS, INFER)

_encode = msgspec.json.Encoder().encode

Refusal = Callable[[ServingError, str], Reply]
"""An error, which may be a fault of ours, in the shape of the endpoint; by the request's id."""


@dataclass(frozen=True, slots=True)
class LineAsked:
    """The body of a line, read. shown: the answer of the live route, by the request's id."""

    requests: Sequence[InferenceRequest]
    inference: InferenceService
    asker: Asker
    shown: Callable[[Sequence[InferenceResult], str], Any]
    refusal: Refusal

    @property
    def inputs(self) -> int:
        return len(self.requests)

    async def run(self, position: int, left_s: float) -> InferenceResult:
        (result,) = await self.inference.infer(
            [self.requests[position]], timeout_ms=1000 * left_s, asker=self.asker
        )
        match result.outcome:
            case Failed(error=TryLater() | DeadlineExceeded() as error):
                raise error
        return result

    def reply(self, results: Sequence[InferenceResult], request_id: str) -> Reply:
        """The first failure is the line's."""
        for result in results:
            if isinstance(result.outcome, Failed):
                return self.refusal(result.outcome.error, request_id)
        return Reply(200, _encode(self.shown(results, request_id)))


@dataclass(frozen=True, slots=True)
class BatchWork:
    """max_values: in the body of one line. is_ready: whether the models' first load is over."""

    inference: InferenceService
    models: Models
    limits: Limits
    max_values: int
    is_ready: Callable[[], bool]

    @property
    def can_run(self) -> bool:
        return self.is_ready()

    def model_problem(self, endpoint: str, model: str) -> Problem | None:
        if not model:
            is_right = endpoint == INFER  # which has a default
            return None if is_right else Problem("invalid_request", "body.model is missing")
        try:
            found = find_in(self.models, model)
            if endpoint in _TASKS:
                require_task(found, *_TASKS[endpoint])
        except ServingError as error:
            return Problem(error.code, str(error))
        return None

    def read(self, endpoint: str, body: bytes, batch: Batch) -> LineAsked | Reply:
        """Of a line's body all is checked that the live route checks."""
        key = batch.caller if is_key_id(batch.caller) else ""
        asker = Asker(batch.caller, Priority.BATCH, key, batch.models, is_patient=True)
        given: dict[str, Any] = {}

        def in_openai_shape(error: ServingError, _: str) -> Reply:
            shown = shown_to_caller(error)
            return Reply(openai_status(shown), _encode(error_object(shown, given)))

        refusal = _in_our_shape if endpoint == INFER else in_openai_shape
        try:
            value = decode(body, self.max_values)
            if endpoint == INFER:
                parsed = parse_infer(value, self.limits)
                if parsed.stream:
                    raise no_stream()
                return LineAsked([wanted_of(parsed)], self.inference, asker, _success, refusal)
            given |= value if isinstance(value, dict) else {}
            _, wanted = read_openai(endpoint, value, self.models, self.limits)
        except ServingError as error:
            return refusal(error, "")
        return LineAsked(
            wanted.requests,
            self.inference,
            asker,
            lambda results, _: wanted.shown(_answers(results)),
            refusal,
        )


def _answers(results: Sequence[InferenceResult]) -> list[Answer]:
    outcomes = (result.outcome for result in results)
    return [outcome.answer for outcome in outcomes if isinstance(outcome, Done)]


def _success(results: Sequence[InferenceResult], request_id: str) -> Any:
    (result,) = results
    done = result.outcome
    return answers.success(result, done, request_id) if isinstance(done, Done) else None


def _in_our_shape(error: ServingError, request_id: str) -> Reply:
    shown = shown_to_caller(error)
    return Reply(status_of(shown), _encode(failure(our_error(shown), request_id)))
