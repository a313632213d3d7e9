"""Request parameters and a checkpoint's defaults, made into how an encoder-decoder writes.

Lengths are counted as transformers' `max_length` and `min_length` count them for this family: the
decoder's start token is one of them. `Decoding` leaves it out.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from app.core.errors import InvalidRequest
from app.core.inference import Decoding

SEED_BITS = 53  # exact in every JSON reader
TOP_K = 50  # transformers', where a checkpoint does not say
HELD_TOKENS = 8192  # of all beams of a text: 0.8 GB for BART-large
_OF_SAMPLING = ("temperature", "top_p", "top_k", "seed")


def draws(parameters: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn at random: the request's wish, or else the checkpoint's."""
    given: bool | None = parameters["do_sample"]
    if given is not None:
        return given
    return bool(generation.get("do_sample")) and (parameters["num_beams"] or 1) == 1


class Wishes:
    """What a request asks for, and what the checkpoint does where it asks for nothing.

    generation: the checkpoint's `generation_config.json`.
    """

    def __init__(self, parameters: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
        self._given = parameters
        self._generation = generation

    def of(self, name: str, otherwise: Any) -> Any:
        """The request's value, or the checkpoint's, or `otherwise`."""
        for source in (self._given, self._generation):
            if source.get(name) is not None:
                return source[name]
        return otherwise

    def max_length(self, usual: int, room: int) -> int:
        """usual: where neither says; room: what the model surely has positions for."""
        own = self._generation.get("max_length")
        given: int | None = self._given["max_length"]
        most = max(room, own or 0)
        if given is None:
            return int(own or min(usual, room))
        if given > most:
            raise InvalidRequest(
                f"parameters.max_length must be at most {most} for this model, not {given}"
            )
        return given

    def min_length(self, max_length: int) -> int:
        """Raises InvalidRequest for two wishes that exclude each other; a default gives way."""
        given: int | None = self._given.get("min_length")
        if given is None:
            return min(int(self._generation.get("min_length") or 0), max_length)
        if given > max_length:
            raise InvalidRequest(
                f"parameters.min_length ({given}) must not exceed max_length ({max_length})"
            )
        return given

    def samples(self) -> bool:
        """Raises InvalidRequest where sampling is asked for beside beams, or half asked for."""
        given, beams = self._given["do_sample"], self._given["num_beams"]
        if given and beams is not None and beams > 1:
            raise InvalidRequest(
                f"parameters.do_sample excludes parameters.num_beams above 1 ({beams})"
            )
        samples = draws(self._given, self._generation)
        for name in _OF_SAMPLING:
            if self._given[name] is not None and not samples:
                raise InvalidRequest(
                    f"parameters.{name} has no effect without sampling; set parameters.do_sample "
                    "to true"
                )
        return samples

    def decoding(self, max_length: int, min_length: int, prefix: tuple[int, ...]) -> Decoding:
        """prefix: counted in both lengths. Raises InvalidRequest for more than can be held."""
        drawn: dict[str, Any] = {"beams": self.of("num_beams", 1)}
        if self.samples():
            seed = self._given["seed"]
            drawn = {
                "temperature": float(self.of("temperature", 1.0)),
                "top_p": float(self.of("top_p", 1.0)),
                "top_k": self.of("top_k", TOP_K) or None,
                "seed": secrets.randbits(SEED_BITS) if seed is None else seed,
            }
        max_length = self._held(max_length, drawn.get("beams", 1))
        return Decoding(
            max_tokens=max_length - 1,
            min_tokens=max(0, min(min_length, max_length) - 1),
            length_penalty=float(self.of("length_penalty", 1.0)),
            no_repeat_ngram=self.of("no_repeat_ngram_size", 0),
            repetition_penalty=float(self.of("repetition_penalty", 1.0)),
            early_stopping=self.of("early_stopping", False),
            prefix=prefix,
            **drawn,
        )

    def _held(self, max_length: int, beams: int) -> int:
        """A length that was asked for is refused where it is too much; a default gives way."""
        most = HELD_TOKENS // beams
        if self._given["max_length"] is not None and max_length > most:
            raise InvalidRequest(
                f"parameters.max_length must be at most {most} with {beams} beams "
                f"(num_beams), not {max_length}"
            )
        return min(max_length, most)
