"""How a text is continued: what a request says, then what its checkpoint says, then our own rule.

A checkpoint's defaults have transformers' names and meaning (`generation_config.json`). Its
text-generation pipeline samples unless the checkpoint says `do_sample: false`, and so do we.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import InvalidRequest

OWN_TEMPERATURE = 0.7
OWN_TOP_P = 0.95
OWN_NEW_TOKENS = 50
USUAL_TOP_K = 50  # transformers' own, where a checkpoint samples and names none
ONLY_SAMPLING = ("temperature", "top_p", "top_k")
NOT_WITH_BEAMS = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a request is silent. temperature is that of sampling, were it wanted."""

    samples: bool = True
    temperature: float = OWN_TEMPERATURE
    top_p: float = OWN_TOP_P
    top_k: int = 0
    beams: int = 1
    repetition_penalty: float = 1.0
    min_length: int = 0
    min_new_tokens: int = 0
    max_length: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """How the next token is chosen. temperature 0: the likeliest, or by `beams`."""

    temperature: float
    top_p: float
    top_k: int | None
    beams: int
    repetition_penalty: float


def defaults_of(generation: Mapping[str, Any] | None) -> Defaults:
    """Raises ValueError for a value that is not what its name says."""
    said = {name: value for name, value in (generation or {}).items() if value is not None}
    speaks_of_sampling = said.get("do_sample") is True or any(n in said for n in ONLY_SAMPLING)
    temperature = _number(said, "temperature", OWN_TEMPERATURE, least=0)
    beams = _whole(said, "num_beams", 1, least=1)
    return Defaults(
        samples=bool(said.get("do_sample", beams == 1)) and temperature > 0,
        temperature=temperature or OWN_TEMPERATURE,
        top_p=_number(said, "top_p", 1.0 if speaks_of_sampling else OWN_TOP_P, least=0.01, most=1),
        top_k=_whole(said, "top_k", USUAL_TOP_K if speaks_of_sampling else 0),
        beams=beams,
        repetition_penalty=_number(said, "repetition_penalty", 1.0, least=0.01),
        min_length=_whole(said, "min_length", 0),
        min_new_tokens=_whole(said, "min_new_tokens", 0),
        max_length=_whole(said, "max_length", 0) or None,
        max_new_tokens=_whole(said, "max_new_tokens", 0) or None,
    )


def draws(parameters: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn at random. Raises ValueError as `defaults_of` does."""
    return _samples(parameters, defaults_of(generation))


def choose(parameters: Mapping[str, Any], defaults: Defaults) -> Choice:
    """Raises InvalidRequest where parameters of the request contradict each other."""
    _check_sampling(parameters)
    beams = _or(parameters["num_beams"], defaults.beams)
    samples = _samples(parameters, defaults)
    if samples or _wants_penalties(parameters):
        beams = parameters["num_beams"] or 1  # a default gives way to what was asked for
    if beams > 1:
        _check_beams(parameters)
    top_k = _or(parameters["top_k"], defaults.top_k)
    penalty = _or(parameters["repetition_penalty"], defaults.repetition_penalty)
    return Choice(
        temperature=_or(parameters["temperature"], defaults.temperature) if samples else 0.0,
        top_p=_or(parameters["top_p"], defaults.top_p),
        top_k=top_k or None,
        beams=beams,
        repetition_penalty=1.0 if beams > 1 else penalty,
    )


def _samples(parameters: Mapping[str, Any], defaults: Defaults) -> bool:
    if parameters["do_sample"] is not None:
        return bool(parameters["do_sample"])
    if parameters["temperature"] is not None:
        return bool(parameters["temperature"] > 0)
    return defaults.samples and (parameters["num_beams"] or 1) == 1


def _check_sampling(parameters: Mapping[str, Any]) -> None:
    do_sample, temperature = parameters["do_sample"], parameters["temperature"]
    if do_sample is True and temperature == 0:
        raise InvalidRequest(
            "parameters.do_sample is true, but parameters.temperature is 0, which takes the "
            "likeliest token each time; leave one of them out"
        )
    if do_sample is False and temperature:
        raise InvalidRequest(
            f"parameters.do_sample is false, but parameters.temperature is {temperature:g}, which "
            "only sampling knows; leave one of them out"
        )


def _check_beams(parameters: Mapping[str, Any]) -> None:
    beams = parameters["num_beams"]
    if parameters["do_sample"] or parameters["temperature"]:
        raise InvalidRequest(
            f"parameters.num_beams is {beams}, but beams are not sampled; leave out "
            "parameters.do_sample and parameters.temperature, or ask for 1 beam"
        )
    for name in _wants_penalties(parameters):
        raise InvalidRequest(
            f"parameters.{name} does not go with parameters.num_beams above 1; "
            "leave one of them out"
        )


def _wants_penalties(parameters: Mapping[str, Any]) -> list[str]:
    return [n for n, neutral in NOT_WITH_BEAMS.items() if parameters[n] not in (None, neutral)]


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def _number(
    said: Mapping[str, Any], name: str, default: float, *, least: float, most: float = 1e9
) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"generation says {name}: {value!r}, not a number from {least} to {most}")
    return float(value)


def _whole(said: Mapping[str, Any], name: str, default: int, *, least: int = 0) -> int:
    value = _number(said, name, default, least=least)
    if value != int(value):
        raise ValueError(f"generation says {name}: {value!r}, not a whole number")
    return int(value)
