"""One request, from plain inputs to outcomes.

The path, in order. Each step names the module that owns it:

1. models/registry.py turns model and version into a deployment.
2. core/parameters.py checks the parameters against what the version's task declares.
3. reuse.py: response_cache.py may have the answer already, shared_work.py an equal input in flight
   to wait for; both only where nothing is drawn at random (models/registry.py knows).
4. workers/supervisor.py admits the input, or refuses it at once (full, loading, failed).
5. workers/handle.py keeps it until the worker answers, the deadline passes or the caller leaves.
6. Outcomes return in the order of the inputs, each its own: one bad input fails alone.

A streamed input goes the same way but for step 3, and its pieces come by streaming.py.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.clock import Clock
from app.core.errors import (
    Cancelled,
    InvalidRequest,
    InvariantBroken,
    ModelUnavailable,
    ServingError,
)
from app.core.metrics import Metrics
from app.core.parameters import resolve
from app.core.texts import count_chars
from app.core.types import NOBODY, Asker, Done, Failed, Outcome, Piece, Usage
from app.models.registry import Deployment, Registry
from app.services.metering import Meter, charge
from app.services.response_cache import ResponseCache
from app.services.reuse import Reuse
from app.services.shared_work import key_of_work
from app.services.streaming import Ended, PieceBuffer, too_slow, whole
from app.services.visible_models import check_model


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One input: text, or in `inputs` named tensors or a conversation (`messages`, `tools`).

    model and version default to the configured model and its default version.
    """

    text: str
    model: str | None = None
    version: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What became of one input. model_used is None when no version was found. request: which one,
    where several are streamed together."""

    outcome: Outcome
    model_used: str | None
    model_type: str | None
    latency_ms: float
    request: int = 0


@dataclass(slots=True)
class _Entry:
    """One input on its way. outcome is set once; latency_ms with it.

    broken_off: why it was we who ended it. used: tokens so far, of one that is streamed.
    """

    deployment: Deployment | None = None
    outcome: Outcome | None = None
    latency_ms: float = 0.0
    wait: "asyncio.Future[Outcome] | None" = None
    broken_off: ServingError | None = None
    used: Usage = Usage()


class InferenceService:
    """Serves any number of inputs at once. cache: None where no answer is kept. meter: is told what
    each call used."""

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        clock: Clock,
        *,
        default_model: str,
        max_text_chars: int,
        cache: ResponseCache | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._default_model = default_model
        self._max_text_chars = max_text_chars
        self._reuse = Reuse(cache, metrics, clock)
        self._meter = meter
        self._is_stopping = False

    def check(self, request: InferenceRequest, asker: Asker) -> str:
        """The model that would infer it, now or later. Raises what is wrong with the request."""
        deployment = self._deployment_of(request, asker)
        self._parameters_of(deployment, request)
        return deployment.spec.name

    def check_allowed(self, request: InferenceRequest, asker: Asker) -> None:
        """Raises Forbidden for a model that is not the caller's to ask."""
        check_model(asker.models, self._name_of(request))

    def stop(self) -> None:
        """Take no new input; what was taken is finished."""
        self._is_stopping = True

    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None = None,
        asker: Asker = NOBODY,
        is_whole: bool = False,
    ) -> list[InferenceResult]:
        """One result per request, in order. is_whole: one failure is the answer to all of them.

        timeout_ms shortens the model's own limit, never lengthens it. Cancelling this call
        withdraws every input that is not answered yet.
        """
        started = self._clock.now()
        entries = [self._begin(request, timeout_ms, asker, started) for request in requests]
        try:
            await asyncio.gather(*(entry.wait for entry in entries if entry.wait is not None))
        except asyncio.CancelledError:
            self._charge(asker, entries, is_whole_lost=True)
            raise
        is_lost = is_whole and any(isinstance(entry.outcome, Failed) for entry in entries)
        self._charge(asker, entries, is_whole_lost=is_lost)
        return [_result(entry) for entry in entries]

    def _charge(
        self, asker: Asker, entries: Sequence[_Entry], *, is_whole_lost: bool = False
    ) -> None:
        if self._meter is not None:
            charge(self._meter, asker, entries, is_whole_lost=is_whole_lost)

    async def stream(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None = None,
        asker: Asker = NOBODY,
    ) -> AsyncGenerator[Piece | InferenceResult, None]:
        """The texts of the answers while they are written, and behind each its result, which has it
        once more; the first failure is the last result.

        Raises ServingError, already counted, for what fails before the first piece; later the
        result tells. Nothing is begun before the first piece is asked for; closing the generator
        withdraws the inputs. Work is neither shared nor kept.
        """
        started = self._clock.now()
        entries: list[_Entry] = []
        buffer = PieceBuffer()
        begun: set[int] = set()
        try:
            for number, request in enumerate(requests):
                entries.append(_Entry())
                self._begin_stream(entries, number, request, timeout_ms, asker, buffer, started)
            while (each := await buffer.take()) is not None:
                for told in _told(each, entries, begun):
                    begun.add(told.request)
                    yield told
            for number, entry in enumerate(entries):
                if isinstance(entry.outcome, Failed):
                    if not begun:
                        raise entry.outcome.error
                    yield _result(entry, number)
                    return
        finally:
            self._charge(asker, entries)
            for entry in entries:
                if entry.wait is not None:
                    entry.wait.cancel()

    def _begin_stream(
        self,
        entries: Sequence[_Entry],
        number: int,
        request: InferenceRequest,
        timeout_ms: float | None,
        asker: Asker,
        buffer: PieceBuffer,
        started: float,
    ) -> None:
        """The last of them closes the buffer, and so does a failure. Raises ServingError."""
        entry = entries[number]

        def on_piece(piece: Piece) -> None:
            if not buffer.put(piece, number):
                entry.broken_off = too_slow()
                wait.cancel()

        def on_used(used: Usage) -> None:
            entry.used = used

        def on_done(done: "asyncio.Future[Outcome]") -> None:
            self._on_done(entry, done, started)
            if not isinstance(entry.outcome, Failed):
                buffer.end(number)
            if isinstance(entry.outcome, Failed) or all(each.outcome for each in entries):
                buffer.close()

        try:
            deployment, parameters, limit_ms = self._checked(request, timeout_ms, asker, entry)
            wait = entry.wait = deployment.supervisor.submit(
                deployment.spec.key,
                request.text,
                parameters,
                limit_ms,
                request.inputs,
                asker,
                on_piece,
                on_used,
            )
        except ServingError as refused:
            self._settle(entry, Failed(refused), started)
            raise
        wait.add_done_callback(on_done)

    def _begin(
        self, request: InferenceRequest, timeout_ms: float | None, asker: Asker, started: float
    ) -> _Entry:
        """Hand one input to its worker; an error is an outcome, not an exception."""
        entry = _Entry()
        try:
            wait = entry.wait = self._submit(request, timeout_ms, asker, entry)
        except ServingError as refused:
            self._settle(entry, Failed(refused), started)
        else:
            wait.add_done_callback(lambda done: self._on_done(entry, done, started))
        return entry

    def _submit(
        self, request: InferenceRequest, timeout_ms: float | None, asker: Asker, entry: _Entry
    ) -> "asyncio.Future[Outcome]":
        deployment, parameters, limit_ms = self._checked(request, timeout_ms, asker, entry)

        def submit(left_ms: float) -> "asyncio.Future[Outcome]":
            return deployment.supervisor.submit(
                deployment.spec.key, request.text, parameters, left_ms, request.inputs, asker
            )

        if deployment.draws(parameters):
            return submit(limit_ms)
        key = key_of_work(deployment.spec.key, parameters, request.text, request.inputs)
        return self._reuse.join(deployment.spec, key, asker, limit_ms, submit)

    def _checked(
        self, request: InferenceRequest, timeout_ms: float | None, asker: Asker, entry: _Entry
    ) -> tuple[Deployment, dict[str, Any], float]:
        """Who infers it, with which parameters, and how long that may take in ms."""
        if self._is_stopping:
            raise ModelUnavailable("the server is stopping; ask another", retry_after_s=5.0)
        deployment = entry.deployment = self._deployment_of(request, asker)
        if (closed := deployment.supervisor.closed(deployment.spec.key)) is not None:
            raise closed  # before an answer that is kept, or work in flight
        parameters = self._parameters_of(deployment, request)
        own_ms = float(deployment.spec.default_timeout_ms)
        if timeout_ms is None:
            return deployment, parameters, own_ms
        return deployment, parameters, timeout_ms if asker.is_patient else min(own_ms, timeout_ms)

    def _deployment_of(self, request: InferenceRequest, asker: Asker) -> Deployment:
        """Raises ModelNotFound, Forbidden."""
        self.check_allowed(request, asker)
        return self._registry.resolve(self._name_of(request), request.version)

    def _name_of(self, request: InferenceRequest) -> str:
        return self._default_model if request.model is None else request.model

    def _parameters_of(self, deployment: Deployment, request: InferenceRequest) -> dict[str, Any]:
        """All of them, each checked. Raises InvalidRequest, also for what they come with."""
        _check_form(deployment, request)
        self._check_length("text", len(request.text))
        if deployment.task.chats and request.inputs is not None:
            self._check_length("inputs.messages", count_chars(request.inputs))
        return resolve(deployment.parameters, request.parameters)

    def _check_length(self, field: str, chars: int) -> None:
        if chars > self._max_text_chars:
            raise InvalidRequest(
                f"{field} has {chars} characters, at most {self._max_text_chars} are taken "
                "(MAX_TEXT_CHARS); split it"
            )

    def _on_done(self, entry: _Entry, done: "asyncio.Future[Outcome]", started: float) -> None:
        left = Failed(entry.broken_off or Cancelled())
        self._settle(entry, left if done.cancelled() else done.result(), started)

    def _settle(self, entry: _Entry, outcome: Outcome, started: float) -> None:
        entry.outcome = outcome
        entry.latency_ms = (self._clock.now() - started) * 1000
        if entry.deployment is not None:
            spec = entry.deployment.spec
            self._metrics.answered(spec.name, spec.version, outcome, entry.latency_ms)
        elif isinstance(outcome, Failed):
            self._metrics.observe_rejected(outcome.error.code)


def _told(
    each: Piece | Ended, entries: Sequence[_Entry], begun: Collection[int]
) -> list[Piece | InferenceResult]:
    """A piece; or a result, behind its texts if they were not written in pieces."""
    if isinstance(each, Piece):
        return [each]
    number = each.request
    result = _result(entries[number], number)
    if number in begun or not isinstance(result.outcome, Done):
        return [result]
    answer = result.outcome.answer
    return [*whole(answer.value, answer.usage.output_tokens, number), result]


def _check_form(deployment: Deployment, request: InferenceRequest) -> None:
    """Text and tensors each have their tasks."""
    takes = deployment.task.takes
    sent = "text" if request.inputs is None else "inputs"
    if sent != takes and not deployment.task.chats:
        hint = ": named tensors; /models shows their types and shapes" if takes == "inputs" else ""
        raise InvalidRequest(f"{sent} is not what {deployment.spec.key} takes; send {takes}{hint}")


def _result(entry: _Entry, request: int = 0) -> InferenceResult:
    if entry.outcome is None:
        raise InvariantBroken("an input was answered without an outcome")
    deployment = entry.deployment
    return InferenceResult(
        outcome=entry.outcome,
        model_used=deployment.spec.key if deployment else None,
        model_type=deployment.task.model_type if deployment else None,
        latency_ms=entry.latency_ms,
        request=request,
    )
