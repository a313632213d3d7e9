"""The Open Inference Protocol over our service, whichever way its messages come (REST, gRPC).

Text models take BYTES and give named tensors (`open_inference_texts.py`); models of the task
`tensors` take and give their graph's own. Deadlines, priorities, admission and limits are those of
`inference_service.py`, which does the work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.errors import InvalidRequest, ModelUnavailable
from app.core.parameters import Parameter
from app.core.types import Answer, Asker, Failed, Priority
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import ServedVersion
from app.services.open_inference_texts import (
    Tensor,
    inputs_of_texts,
    outputs_of_answers,
    requests_of_tensors,
    shown_outputs,
)

EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters", "priority", "timeout")
MAX_TIMEOUT_US = 3_600_000_000
_PRIORITIES = {"interactive": 1, "normal": 2, "batch": 3}
_STATES = {
    "ready": "READY",
    "loading": "LOADING",
    "unloading": "UNLOADING",
    "stopping": "UNLOADING",
}


class Inference(Protocol):
    async def infer(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout_ms: float | None,
        asker: Asker,
        is_whole: bool = False,
    ) -> Sequence[InferenceResult]: ...


class Models(Protocol):
    def find(self, name: str, version: str | None) -> ServedVersion: ...

    def served(self) -> Sequence[ServedVersion]: ...


@dataclass(frozen=True, slots=True)
class TensorLimits:
    """Settings that bound one request."""

    max_text_chars: int
    max_items: int
    max_values: int


@dataclass(frozen=True, slots=True)
class InferCall:
    """One request. version: empty for the model's default; outputs: empty for all."""

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class InferReply:
    """What came of it, by a version that is named."""

    model: str
    version: str
    outputs: tuple[Tensor, ...]


class OpenInference:
    """Answers for all models; knows no wire format."""

    def __init__(self, inference: Inference, models: Models, limits: TensorLimits) -> None:
        self._inference = inference
        self._models = models
        self._limits = limits

    def is_ready(self, model: str, version: str) -> bool:
        """Raises ModelNotFound."""
        return self._models.find(model, version or None).state == "ready"

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        """Names, types and shapes. Raises ModelNotFound, or ModelUnavailable while it loads."""
        found = self._models.find(model, version or None)
        if found.takes == "inputs":
            if not found.signature:
                raise _not_loaded(found)
            inputs, outputs = found.signature["inputs"], found.signature["outputs"]
        else:
            inputs, outputs = inputs_of_texts(found.task), shown_outputs(found.task)
        return {
            "name": found.name,
            "versions": list(found.versions),
            "platform": found.runtime,
            "inputs": inputs,
            "outputs": outputs,
        }

    def index(self, only_ready: bool = False, model: str | None = None) -> list[dict[str, Any]]:
        """Every version, or those of a model, with its state in the protocol's words."""
        return [
            {
                "name": found.name,
                "version": found.version,
                "state": _STATES.get(found.state, "UNAVAILABLE"),
                "reason": "unloaded" if found.state == "unloaded" else found.reason,
            }
            for found in self._models.served()
            if (found.state == "ready" or not only_ready) and model in (None, found.name)
        ]

    async def infer(
        self, call: InferCall, *, timeout_ms: float | None, asker: Asker
    ) -> InferReply | Failed:
        """Failed: the service has counted it. Raises what was refused before it was asked."""
        found = self._models.find(call.model, call.version or None)
        given = dict(call.parameters or {})
        timeout_ms = _least(timeout_ms, _timeout_ms(given))
        asker = _urgent(given, asker)
        parameters = _of_task(found.parameters, given)
        if found.takes == "inputs":
            return await self._infer_tensors(found, call, parameters, timeout_ms, asker)
        batch = requests_of_tensors(found, call.inputs, parameters, self._limits)
        results = await self._inference.infer(
            batch.requests, timeout_ms=timeout_ms, asker=asker, is_whole=True
        )
        answers: list[Answer] = []
        for result in results:
            if isinstance(result.outcome, Failed):
                return result.outcome
            answers.append(result.outcome.answer)
        outputs = outputs_of_answers(found.task, answers, batch.is_column)
        return InferReply(found.name, found.version, _chosen(outputs, call.outputs))

    async def _infer_tensors(
        self,
        found: ServedVersion,
        call: InferCall,
        parameters: dict[str, Any],
        timeout_ms: float | None,
        asker: Asker,
    ) -> InferReply | Failed:
        for name in ("outputs", "binary"):
            if name in parameters:
                raise InvalidRequest(f"parameters.{name} is unknown; the request's outputs say it")
        self._check_values(call.inputs)
        inputs = {
            tensor.name: {
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "data": tensor.data,
            }
            for tensor in call.inputs
        }
        parameters |= {"outputs": list(call.outputs) or None, "binary": True}
        request = InferenceRequest("", found.name, found.version, parameters, inputs)
        (result,) = await self._inference.infer([request], timeout_ms=timeout_ms, asker=asker)
        if isinstance(result.outcome, Failed):
            return result.outcome
        outputs = tuple(
            Tensor(name, value["datatype"], tuple(value["shape"]), value["data"])
            for name, value in result.outcome.answer.value.items()
        )
        return InferReply(found.name, found.version, outputs)

    def _check_values(self, tensors: Sequence[Tensor]) -> None:
        """Numbers in raw bytes cost nothing to read; strings, and values in lists, do."""
        limit = self._limits.max_values
        total = sum(
            tensor.size
            for tensor in tensors
            if tensor.datatype == "BYTES" or not isinstance(tensor.data, bytes)
        )
        if total > limit:
            raise InvalidRequest(
                f"the inputs have {total} values, at most {limit} are taken (MAX_TENSOR_VALUES); "
                "send less at once, or numbers as raw bytes"
            )


def version_to_control(parameters: Mapping[str, Any]) -> str | None:
    """Of an order to load or unload a model: the version that is meant; None: all of them.

    Raises InvalidRequest for what other servers of the protocol can do beside that.
    """
    for name, value in parameters.items():
        if name == "unload_dependents" and value is False:
            continue  # clients send it always, and no model depends on another here
        if name != "version":
            raise InvalidRequest(
                f"parameters.{name[:64]} is not supported; a model is loaded as its catalog entry "
                "says, and only `version` may be named"
            )
    version = parameters.get("version")
    if version is not None and not (isinstance(version, str) and 0 < len(version) <= 128):
        raise InvalidRequest("parameters.version must be a version's name, of 1 to 128 characters")
    return version


def _not_loaded(found: ServedVersion) -> ModelUnavailable:
    what = f"{found.name}:{found.version} is {found.state}"
    return ModelUnavailable(f"{what}: {found.reason}" if found.reason else what, retry_after_s=2.0)


def _least(first: float | None, second: float | None) -> float | None:
    given = [limit for limit in (first, second) if limit is not None]
    return min(given, default=None)


def _timeout_ms(parameters: dict[str, Any]) -> float | None:
    """`timeout`, in microseconds as other servers of the protocol take it; 0: none."""
    given = parameters.pop("timeout", 0)
    if type(given) is not int or not 0 <= given <= MAX_TIMEOUT_US:
        raise InvalidRequest(
            f"parameters.timeout must be an integer of microseconds, 0 to {MAX_TIMEOUT_US}"
        )
    return given / 1000 if given else None


def _urgent(parameters: dict[str, Any], asker: Asker) -> Asker:
    """`priority`: a class by name, or 1 to 3 from the most urgent on; 0: as if not given."""
    given = parameters.pop("priority", 0)
    number = _PRIORITIES.get(given, -1) if isinstance(given, str) else given
    if type(number) is not int or not 0 <= number <= len(_PRIORITIES):
        known = ", ".join(f"{name} or {number}" for name, number in _PRIORITIES.items())
        raise InvalidRequest(f"parameters.priority must be one of: {known}")
    return asker.asking(Priority(number - 1)) if number else asker


def _of_task(declared: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's parameters are single values, and some clients send no fractions: one string
    stands for a list of one, and the text of a number for the number."""
    kinds = {parameter.name: parameter.kind for parameter in declared}
    return {name: _fitting(kinds.get(name), value) for name, value in given.items()}


def _fitting(kind: str | None, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if kind == "strings":
        return [value]
    if kind == "number":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _chosen(outputs: Sequence[Tensor], wanted: Sequence[str]) -> tuple[Tensor, ...]:
    if not wanted:
        return tuple(outputs)
    table = {tensor.name: tensor for tensor in outputs}
    for name in wanted:
        if name not in table:
            raise InvalidRequest(f"outputs.{name[:64]} is unknown; there are: {', '.join(table)}")
    return tuple(table[name] for name in wanted)
