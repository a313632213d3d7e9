"""Continuation by a decoder model: of a text as it stands, or of a conversation."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.core.errors import InputTooLong, InvalidRequest
from app.core.inference import Generated, Sampling, SteeredTokenizer, TokenIds, Tokenizer
from app.core.types import Answer, Usage
from app.tasks.chat_files import ChatFiles
from app.tasks.conversation import Conversations
from app.tasks.documents import Marks
from app.tasks.sampling import OWN_NEW_TOKENS, Choice, Defaults, choose, defaults_of
from app.tasks.steering import steer, told
from app.tasks.tool_calls import ForcedCall

SEED_BITS = 53  # exact in every JSON reader
CHAT_NEW_TOKENS = 1024  # who talks expects the whole answer


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A prompt, ready to run. head: what stands in front of each continuation in the answer;
    most_tokens: the room it can ever need in the cache."""

    prompt: TokenIds
    sampling: Sampling
    head: str

    @property
    def most_tokens(self) -> int:
        kept_apart = max(self.sampling.sequences, self.sampling.beams)
        return (len(self.prompt) + self.sampling.max_new_tokens) * kept_apart


class GenerativeTask(Protocol):
    """A task whose answer grows token by token."""

    def prepare(
        self, given: str | Mapping[str, Any], parameters: Mapping[str, Any], tokenizer: Tokenizer
    ) -> GenerationPlan:
        """given: a text, or a conversation. Raises InputTooLong, or InvalidRequest naming the
        field."""

    def finish(
        self,
        plan: GenerationPlan,
        generated: Sequence[Generated],
        decode: Callable[[Sequence[int]], str],
    ) -> Answer:
        """generated: one per sequence asked for."""


class Generate:
    """Continues a text as it stands, or a conversation by the model's own chat template.

    generation: the checkpoint's defaults, by transformers' names; requests override them.
    chat_template_file: a template in place of the model's own.
    """

    def __init__(
        self,
        generation: Mapping[str, Any] | None = None,
        chat_template_file: str | None = None,
    ) -> None:
        self._defaults = defaults_of(generation)
        own = chat_template_file
        self._template = None if own is None else Path(own).read_text(encoding="utf-8")
        self._conversations = Conversations(ChatFiles())

    def read_model(self, files: Mapping[str, str]) -> None:
        """Raises CannotLoad for a template of the version's own that cannot be read."""
        if "model" in files:  # else whatever generates has no files, and no template
            self._conversations = Conversations.of_model(Path(files["model"]), self._template)

    def prepare(
        self, given: str | Mapping[str, Any], parameters: Mapping[str, Any], tokenizer: Tokenizer
    ) -> GenerationPlan:
        opening = ""
        if is_chat := not isinstance(given, str):
            text = self._conversations.prompt(given)
            if (call := self._conversations.forced_call(given)) is not None:
                parameters = {**parameters, "json_schema": _schema_of_call(call, tokenizer)}
                opening = call.opening
            prompt = _unmarked(text + opening, tokenizer)
        else:
            text = given
            prompt = tokenizer.encode([text])[0]
        if not prompt:
            raise InvalidRequest("text has no tokens, there is nothing to continue")
        choice = choose(parameters, self._defaults)
        own = CHAT_NEW_TOKENS if is_chat else OWN_NEW_TOKENS
        most = _new_tokens(len(prompt), parameters, self._defaults, tokenizer, own)
        return GenerationPlan(
            prompt=prompt,
            sampling=self._sampling(prompt, parameters, choice, most, tokenizer),
            head=(text if parameters["return_full_text"] else "") + opening,
        )

    def _sampling(
        self,
        prompt: TokenIds,
        parameters: Mapping[str, Any],
        choice: Choice,
        most: int,
        tokenizer: Tokenizer,
    ) -> Sampling:
        least = _least_tokens(len(prompt), most, parameters, self._defaults)
        return steer(
            Sampling(
                max_new_tokens=most,
                min_new_tokens=least,
                sequences=_sequences(parameters, choice),
                temperature=choice.temperature,
                top_p=choice.top_p,
                top_k=choice.top_k,
                seed=_seed(parameters),
                stop=tuple(parameters["stop"]),
                beams=choice.beams,
                repetition_penalty=choice.repetition_penalty,
                frequency_penalty=parameters["frequency_penalty"],
                presence_penalty=parameters["presence_penalty"],
            ),
            parameters,
            tokenizer,
        )

    def finish(
        self,
        plan: GenerationPlan,
        generated: Sequence[Generated],
        decode: Callable[[Sequence[int]], str],
    ) -> Answer:
        texts = [text_of_tokens(plan, g.token_ids, decode) for g in generated]
        reasons = [g.finish_reason for g in generated]
        single = plan.sampling.sequences == 1
        metadata: dict[str, Any] = {"finish_reason": reasons[0] if single else reasons}
        if plan.sampling.temperature > 0:
            metadata["seed"] = plan.sampling.seed
        if plan.sampling.logprobs is not None:
            logprobs = told(generated, decode)
            metadata["logprobs"] = logprobs[0] if single else logprobs
        return Answer(
            value=texts[0] if single else texts,
            metadata=metadata,
            usage=Usage(len(plan.prompt), sum(len(g.token_ids) for g in generated)),
        )


def text_of_tokens(
    plan: GenerationPlan, token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> str:
    """One continuation that has ended, as the answer has it."""
    return plan.head + _until_stop(decode(token_ids), plan.sampling.stop)


def _schema_of_call(call: ForcedCall, tokenizer: Tokenizer) -> str:
    if not isinstance(tokenizer, SteeredTokenizer):
        raise InvalidRequest("tool_choice cannot force a call with this version's runtime")
    try:
        tokenizer.check_schema(call.schema)
    except InvalidRequest as refused:
        raise InvalidRequest(f"tools cannot be used to force a call: {refused}") from refused
    return call.schema


def _unmarked(text: str, tokenizer: Tokenizer) -> TokenIds:
    """A template writes the marks around a text itself; the tokenizer is to add none."""
    empty, row = tokenizer.encode(["", text])
    return Marks.around(row, empty).strip(row)


def _new_tokens(
    prompt: int,
    parameters: Mapping[str, Any],
    defaults: Defaults,
    tokenizer: Tokenizer,
    own: int,
) -> int:
    """How many tokens may be added. An explicit limit that does not fit is refused.

    own: where neither the request nor the checkpoint says."""
    context = tokenizer.max_tokens
    max_length, max_new = parameters["max_length"], parameters["max_new_tokens"]
    if max_length is not None and max_new is not None:
        raise InvalidRequest(
            "parameters.max_length and parameters.max_new_tokens exclude each other; "
            "max_length counts prompt and continuation, max_new_tokens the continuation alone"
        )
    if prompt >= context:
        # Some libraries cut what they count, far above the context.
        at_least = "" if getattr(tokenizer, "counts_fully", True) else "at least "
        raise InputTooLong(
            f"text has {at_least}{prompt} tokens, the model takes at most {context - 1} and needs "
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
        return min(_default_new_tokens(prompt, parameters, defaults, own), context - prompt)
    if prompt + max_new > context:
        raise InputTooLong(
            f"text has {prompt} tokens and {max_new} more are asked for, together over the "
            f"model's {context}; shorten text or lower the limit by {prompt + max_new - context}"
        )
    return int(max_new)


def _default_new_tokens(
    prompt: int, parameters: Mapping[str, Any], defaults: Defaults, own: int
) -> int:
    """The checkpoint's own limit, unless the prompt alone fills it; never below what was asked."""
    most = defaults.max_new_tokens or own
    if defaults.max_new_tokens is None and (defaults.max_length or 0) > prompt:
        most = (defaults.max_length or 0) - prompt
    return max(most, parameters["min_new_tokens"] or 0)


def _least_tokens(prompt: int, most: int, parameters: Mapping[str, Any], defaults: Defaults) -> int:
    """Tokens before the text may end. An explicit one that does not fit is refused."""
    given: int | None = parameters["min_new_tokens"]
    if given is None:
        return min(max(defaults.min_new_tokens, defaults.min_length - prompt), most)
    if given > most:
        raise InvalidRequest(
            f"parameters.min_new_tokens is {given}, but only {most} tokens may be added; lower it "
            "or raise the limit"
        )
    return given


def _sequences(parameters: Mapping[str, Any], choice: Choice) -> int:
    count: int = parameters["num_return_sequences"]
    if choice.beams > 1 and count > choice.beams:
        raise InvalidRequest(
            f"parameters.num_return_sequences is {count}, but {choice.beams} beams end in "
            f"{choice.beams} texts; raise parameters.num_beams"
        )
    if count > 1 and choice.beams == 1 and choice.temperature == 0:
        raise InvalidRequest(
            f"parameters.num_return_sequences is {count}, but without sampling (temperature 0) "
            "there is one text only; raise parameters.temperature above 0"
        )
    return count


def _seed(parameters: Mapping[str, Any]) -> int:
    given: int | None = parameters["seed"]
    return secrets.randbits(SEED_BITS) if given is None else given


def _until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop, wherever token borders fell."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
