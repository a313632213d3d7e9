"""Raw continuation of a text by a decoder model."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.errors import InputTooLong, InvalidRequest
from app.core.inference import Generated, Sampling, TokenIds, Tokenizer
from app.core.types import Answer, Usage

DEFAULT_NEW_TOKENS = 50
SEED_BITS = 53  # exact in every JSON reader


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A prompt, ready to run. most_tokens: the room it can ever need in the cache."""

    text: str
    prompt: TokenIds
    sampling: Sampling
    return_full_text: bool

    @property
    def most_tokens(self) -> int:
        return (len(self.prompt) + self.sampling.max_new_tokens) * self.sampling.sequences


class GenerativeTask(Protocol):
    """A task whose answer grows token by token."""

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer
    ) -> GenerationPlan:
        """Raises InputTooLong, or InvalidRequest naming the field."""

    def finish(
        self,
        plan: GenerationPlan,
        generated: Sequence[Generated],
        decode: Callable[[Sequence[int]], str],
    ) -> Answer:
        """generated: one per sequence asked for."""


class Generate:
    """Continues `text` as it stands; no chat template."""

    def prepare(
        self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer
    ) -> GenerationPlan:
        prompt = tokenizer.encode([text])[0]
        return GenerationPlan(
            text=text,
            prompt=prompt,
            sampling=Sampling(
                max_new_tokens=_new_tokens(len(prompt), parameters, tokenizer.max_tokens),
                sequences=_sequences(parameters),
                temperature=parameters["temperature"],
                top_p=parameters["top_p"],
                top_k=parameters["top_k"],
                seed=_seed(parameters),
                stop=tuple(parameters["stop"]),
            ),
            return_full_text=parameters["return_full_text"],
        )

    def finish(
        self,
        plan: GenerationPlan,
        generated: Sequence[Generated],
        decode: Callable[[Sequence[int]], str],
    ) -> Answer:
        head = plan.text if plan.return_full_text else ""
        texts = [head + _until_stop(decode(g.token_ids), plan.sampling.stop) for g in generated]
        reasons = [g.finish_reason for g in generated]
        single = plan.sampling.sequences == 1
        metadata: dict[str, Any] = {"finish_reason": reasons[0] if single else reasons}
        if plan.sampling.temperature > 0:
            metadata["seed"] = plan.sampling.seed
        return Answer(
            value=texts[0] if single else texts,
            metadata=metadata,
            usage=Usage(len(plan.prompt), sum(len(g.token_ids) for g in generated)),
        )


def _new_tokens(prompt: int, parameters: Mapping[str, Any], context: int) -> int:
    """How many tokens may be added. An explicit limit that does not fit is refused."""
    max_length, max_new = parameters["max_length"], parameters["max_new_tokens"]
    if max_length is not None and max_new is not None:
        raise InvalidRequest(
            "parameters.max_length and parameters.max_new_tokens exclude each other; "
            "max_length counts prompt and continuation, max_new_tokens the continuation alone"
        )
    if prompt >= context:
        raise InputTooLong(
            f"text has at least {prompt} tokens, the model takes at most {context - 1} and needs "
            "room to continue; shorten text"
        )
    if max_length is not None:
        if max_length <= prompt:
            raise InvalidRequest(
                f"parameters.max_length is {max_length}, but text alone has {prompt} tokens; "
                "raise it or use parameters.max_new_tokens, which counts the continuation alone"
            )
        max_new = max_length - prompt
    if max_new is None:
        return min(DEFAULT_NEW_TOKENS, context - prompt)
    if prompt + max_new > context:
        raise InputTooLong(
            f"text has {prompt} tokens and {max_new} more are asked for, together over the "
            f"model's {context}; shorten text or lower the limit by {prompt + max_new - context}"
        )
    return int(max_new)


def _sequences(parameters: Mapping[str, Any]) -> int:
    count: int = parameters["num_return_sequences"]
    if count > 1 and parameters["temperature"] == 0:
        raise InvalidRequest(
            f"parameters.num_return_sequences is {count}, but temperature 0 gives one text only; "
            "raise parameters.temperature above 0"
        )
    return count


def _seed(parameters: Mapping[str, Any]) -> int:
    given: int | None = parameters["seed"]
    return secrets.randbits(SEED_BITS) if given is None else given


def _until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop, wherever token borders fell."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
