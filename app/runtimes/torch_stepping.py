"""One token per step for each running prompt, in torch, with a cache of its own per prompt.

A prompt never shares a forward pass with another one: nothing is padded, so what it becomes does
not depend on its neighbours, bit by bit. The continuations of one prompt do share theirs. Both are
as in `generate`, also in what they draw: the same logits, the same order of temperature, top_k and
top_p, and the same numbers for a seed.
"""

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.core.errors import CannotLoad
from app.core.inference import Generated, Sampling, TokenIds, Written
from app.runtimes.base import StepOutcome
from app.runtimes.torch_device import Placement, compute

CHUNK_TOKENS = 256  # where prompts are cut: multiples of it from their start, whoever is beside

Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class Continuation:
    """One text that grows. ended: its finish reason, once there is one. told: how many tokens
    were."""

    token_ids: list[int]
    ended: str | None = None
    told: int = 0


@dataclass(slots=True)
class Running:
    """A prompt and its continuations. unread: tokens that the cache does not hold yet."""

    sampling: Sampling
    unread: torch.Tensor
    cache: Any
    choose: Callable[[torch.Tensor], torch.Tensor]
    texts: list[Continuation]

    def news(self) -> list[Written]:
        """What the texts grew by since the last call."""
        news: list[Written] = []
        for index, text in enumerate(self.texts):
            if len(text.token_ids) > text.told:
                token_ids = tuple(text.token_ids[text.told :])
                news.append(Written(token_ids, index, finish_reason=text.ended))
                text.told = len(text.token_ids)
        return news


class Stepping:
    """Runs the prompts. A step reads one chunk of one prompt, or as many short prompts as are no
    longer together; those that are not read take turns, so that none waits for a long one's end."""

    def __init__(
        self,
        model: Any,
        placement: Placement,
        threads: int,
        ends: frozenset[int],
        decode: Decode,
    ) -> None:
        self._model = model
        self._placement = placement
        self._threads = threads
        self._ends = ends
        self._decode = decode
        self._running: dict[int, Running] = {}
        self._unread: deque[int] = deque()  # whose prompts are not read to their end, by turn
        # Logits of a long prompt's every token would need more room than its cache.
        takes_it = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._forward_options = {"logits_to_keep": 1} if takes_it else {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._running

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        ids = torch.tensor([list(prompt)] * sampling.sequences, device=self._placement.device)
        texts = [Continuation([]) for _ in range(sampling.sequences)]
        self._running[sequence_id] = Running(sampling, ids, None, _chooser(sampling), texts)
        self._unread.append(sequence_id)

    def cancel(self, sequence_id: int) -> None:
        del self._running[sequence_id]
        if sequence_id in self._unread:
            self._unread.remove(sequence_id)

    def step(self) -> StepOutcome:
        """One token for every text that has not ended and whose prompt is read."""
        read = self._turns()
        tokens = 0
        goes_on: list[int] = []
        for sequence_id, running in self._running.items():
            if sequence_id not in read and sequence_id in self._unread:
                continue
            if running.unread.shape[1] > CHUNK_TOKENS:
                self._read_chunk(running)
                goes_on.append(sequence_id)
            else:
                tokens += self._advance(running)
        self._unread = deque([*(i for i in self._unread if i not in read), *goes_on])
        written = {i: news for i, it in self._running.items() if (news := it.news())}
        done = [i for i, it in self._running.items() if all(text.ended for text in it.texts)]
        finished = {i: _generated(self._running.pop(i)) for i in done}
        return StepOutcome(finished, tokens, read, written)

    def _turns(self) -> dict[int, int]:
        """Whose prompts are read in this step, and how many tokens of each."""
        read: dict[int, int] = {}
        room = CHUNK_TOKENS
        for sequence_id in self._unread:
            tokens = min(self._running[sequence_id].unread.shape[1], CHUNK_TOKENS)
            if tokens > room:
                break
            read[sequence_id] = tokens
            room -= tokens
        return read

    def _advance(self, running: Running) -> int:
        """How many tokens there are more."""
        logits = compute(
            self._placement, self._threads, lambda: self._logits(running, running.unread)
        )
        chosen = running.choose(logits)
        # Texts that have ended stay in the pass and draw as well, as in `generate`: what the others
        # draw must not depend on when these end.
        running.unread = chosen[:, None].to(self._placement.device)
        growing = [text for text in running.texts if text.ended is None]
        for text, token in zip(running.texts, chosen.tolist(), strict=True):
            if text.ended is None:
                self._append(text, token, running.sampling)
        return len(growing)

    def _read_chunk(self, running: Running) -> None:
        chunk, rest = running.unread[:, :CHUNK_TOKENS], running.unread[:, CHUNK_TOKENS:]
        compute(self._placement, self._threads, lambda: self._logits(running, chunk))
        running.unread = rest

    def _logits(self, running: Running, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 [texts, vocabulary], on the CPU: what is drawn does not depend on the device."""
        read = self._model(
            input_ids=token_ids,
            past_key_values=running.cache,
            use_cache=True,
            **self._forward_options,
        )
        running.cache = getattr(read, "past_key_values", None)
        if running.cache is None:
            raise CannotLoad(f"{type(self._model).__name__} has no key-value cache")
        logits: torch.Tensor = read.logits[:, -1].to("cpu", torch.float32)
        return logits

    def _append(self, text: Continuation, token: int, sampling: Sampling) -> None:
        if token in self._ends:
            text.ended = "stop"
            return
        text.token_ids.append(token)
        if has_stop(text.token_ids, sampling.stop, self._decode):
            text.ended = "stop"
        elif len(text.token_ids) == sampling.max_new_tokens:
            text.ended = "length"


def has_stop(token_ids: Sequence[int], stops: Sequence[str], decode: Decode) -> bool:
    """Whether the text contains one of the strings, wherever token borders fall."""
    if not stops:
        return False
    text = decode(token_ids)
    return any(stop in text for stop in stops)


def _chooser(sampling: Sampling) -> Callable[[torch.Tensor], torch.Tensor]:
    """From logits to one token per text."""
    if sampling.temperature == 0:
        return lambda logits: logits.argmax(dim=-1)
    numbers = torch.Generator().manual_seed(sampling.seed)
    narrowing: Any = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k:
        narrowing.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        narrowing.append(TopPLogitsWarper(sampling.top_p))

    def draw(logits: torch.Tensor) -> torch.Tensor:
        probabilities = narrowing(None, logits).softmax(dim=-1)
        return torch.multinomial(probabilities, 1, generator=numbers).squeeze(1)

    return draw


def _generated(running: Running) -> tuple[Generated, ...]:
    return tuple(Generated(tuple(text.token_ids), text.ended or "length") for text in running.texts)
