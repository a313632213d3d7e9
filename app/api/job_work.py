"""What jobs mean: bodies of the live routes, read as those read them, without a connection.

A body is checked when it is submitted, kept as it came, and read again by whoever runs it. What it
gives is what the live route would have answered.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.api import answers
from app.api.deps import InferenceService
from app.api.errors import shown_to_caller
from app.api.inference import sorted_out, wanted_of
from app.api.openai_calls import OPENAI, no_stream, read_openai
from app.api.openai_route import Wanted
from app.core.errors import DeadlineExceeded, ModelNotFound, ServingError, TryLater, from_code
from app.core.types import Answer, Asker, Done, Failed, Timings, Usage
from app.jobs.plan import Part
from app.jobs.status import Claimed, Ending, JobState, Problem
from app.keys.key import is_key_id
from app.schemas.request import Limits, parse_batch, parse_infer
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.visible_models import Models

INFER, BATCH = "/infer", "/infer/batch"
ENDPOINTS = (INFER, BATCH, *OPENAI)

_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Read:
    """A body, read. model: None where it asks several. ending: from the results of all requests,
    by the request's id and the milliseconds since it began to run."""

    requests: Sequence[InferenceRequest]
    model: str | None
    ending: Callable[[Sequence[InferenceResult], str, float], Ending]


@dataclass(frozen=True, slots=True)
class Work:
    """The planner of jobs. can_run: whether the models' first load is over."""

    inference: InferenceService
    models: Models
    limits: Limits
    is_ready: Callable[[], bool]

    @property
    def can_run(self) -> bool:
        return self.is_ready()

    def check(self, endpoint: str, body: Any, asker: Asker) -> Read:
        """Raises a CallerError as the live route would; and for an entry of a batch whose model is
        not the caller's to ask, because it runs without him."""
        read = self.read(endpoint, body)
        if endpoint == BATCH:  # an entry that is otherwise wrong fails alone
            for request in read.requests:
                self.inference.check_allowed(request, asker)
            return Read(read.requests, self._known(read.model), read.ending)
        names = {self.inference.check(request, asker) for request in read.requests}
        return Read(read.requests, names.pop() if len(names) == 1 else None, read.ending)

    def _known(self, model: str | None) -> str | None:
        """Only what exists is kept as a job's model: another may be any text."""
        try:
            return None if model is None else self.models.find(model, None).name
        except ModelNotFound:
            return None

    def read(self, endpoint: str, body: Any) -> Read:
        """Raises a CallerError for what is wrong whatever models there are."""
        if endpoint == INFER:
            return self._single(body)
        if endpoint == BATCH:
            return self._batch(body)
        call, wanted = read_openai(endpoint, body, self.models, self.limits)
        return Read(wanted.requests, call.found.name, lambda results, *_: _shown(wanted, results))

    def plan(self, job: Claimed) -> "JobPlan":
        return JobPlan(job, self.read(job.endpoint, msgspec.json.decode(job.request)), self)

    def _single(self, body: Any) -> Read:
        parsed = parse_infer(body, self.limits)
        if parsed.stream:
            raise no_stream()
        return Read([wanted_of(parsed)], parsed.model, _single_ending)

    def _batch(self, body: Any) -> Read:
        wanted, problems = sorted_out(parse_batch(body, self.limits), self.limits)

        def ending(results: Sequence[InferenceResult], request_id: str, ms: float) -> Ending:
            return _succeeded(answers.batch(problems, results, request_id, ms))

        names = {request.model for request in wanted}
        return Read(wanted, names.pop() if len(names) == 1 else None, ending)


class JobPlan:
    """One job that is run."""

    def __init__(self, job: Claimed, read: Read, work: Work) -> None:
        self._job = job
        self._read = read
        self._work = work
        key = job.caller if is_key_id(job.caller) else ""
        self._asker = Asker(job.caller, job.priority, is_patient=True, key=key)
        self._began = time.perf_counter()

    @property
    def inputs(self) -> int:
        return len(self._read.requests)

    async def run(self, position: int, left_s: float) -> Part:
        (result,) = await self._work.inference.infer(
            [self._read.requests[position]], timeout_ms=1000 * left_s, asker=self._asker
        )
        match result.outcome:
            case Failed(error=TryLater() | DeadlineExceeded() as error):
                raise error
            case outcome:
                return Part(packed(result), isinstance(outcome, Failed))

    def ending(self, parts: Mapping[int, bytes]) -> Ending:
        results = [unpacked(parts[at]) for at in range(self.inputs)]
        ms = 1000 * (time.perf_counter() - self._began)
        return self._read.ending(results, self._job.request_id, ms)


def packed(result: InferenceResult) -> bytes:
    head = (result.model_used, result.model_type, result.latency_ms)
    match result.outcome:
        case Failed(error=error):
            shown = shown_to_caller(error)
            return _pack((*head, shown.code, str(shown)))
        case Done(answer=answer, timings=timings, is_cached=is_cached):
            usage = (answer.usage.input_tokens, answer.usage.output_tokens)
            times = (timings.queue_ms, timings.compute_ms)
            return _pack((*head, answer.value, dict(answer.metadata), usage, times, is_cached))


def unpacked(part: bytes) -> InferenceResult:
    used, kind, latency_ms, *told = msgspec.msgpack.decode(part)
    if len(told) == 2:
        return InferenceResult(Failed(from_code(*told)), used, kind, latency_ms)
    value, metadata, usage, times, is_cached = told
    done = Done(Answer(value, metadata, Usage(*usage)), Timings(*times), is_cached)
    return InferenceResult(done, used, kind, latency_ms)


def _single_ending(results: Sequence[InferenceResult], request_id: str, _: float) -> Ending:
    (result,) = results
    match result.outcome:
        case Failed(error=error):
            return _failed(error)
        case Done() as done:
            return _succeeded(answers.success(result, done, request_id))


def _shown(wanted: Wanted, results: Sequence[InferenceResult]) -> Ending:
    told: list[Answer] = []
    for result in results:
        match result.outcome:
            case Failed(error=error):
                return _failed(error)
            case Done(answer=answer):
                told.append(answer)
    return _succeeded(wanted.shown(told))


def _succeeded(answer: Mapping[str, Any]) -> Ending:
    return Ending(JobState.SUCCEEDED, _encode(answer))


def _failed(error: ServingError) -> Ending:
    return Ending(JobState.FAILED, problem=Problem(error.code, str(error)))
