"""Continuous batching through transformers' own manager: paged attention, greedy.

The manager runs in a thread of its own and has one generation config for all its requests, so it
takes only what can be asked of it per request: a limit, and greedy choice. Stop strings are looked
for here, in the tokens as they come.

It computes outside the worker's lease of CPU threads. That is why it is not used on the CPU unless
a catalog asks for it.
"""

import copy
import itertools
import threading
from collections.abc import Iterator
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from app.core.errors import CannotLoad, ServingError
from app.core.inference import Generated, Sampling, TokenIds, Written
from app.runtimes.base import StepOutcome
from app.runtimes.torch_stepping import Decode, has_stop

BLOCK_TOKENS = 32
# Long prompts are read in pieces of this. The manager keeps an attention mask of these by all
# tokens of the cache: more of them would cost more memory than they save time.
TOKENS_PER_PASS = 256
MAX_SEQUENCES = 64  # what the worker lets run at a time; each may leave two blocks half empty
NO_END = -1
WARM_UP_WAIT_S = 0.05


def can_take(sampling: Sampling) -> bool:
    """Whether the manager's one config, greedy, is what this prompt asks for."""
    return sampling.temperature == 0 and sampling.sequences == 1


class ManagedBatches:
    """Prompts in the hands of transformers' manager. One thread calls this.

    Raises CannotLoad when the manager does not take the model.
    """

    def __init__(self, model: Any, max_running_tokens: int, ends: frozenset[int], decode: Decode):
        if not _is_plain_attention(model.config.get_text_config(decoder=True)):
            raise CannotLoad(
                f"{type(model).__name__} has layers with a sliding window or without attention; "
                "how much of the manager's cache they need is not known: use batching: own"
            )
        self._ends = ends
        self._decode = decode
        self._running: dict[str, tuple[int, Sampling]] = {}
        self._told: dict[int, int] = {}  # tokens written, by sequence id
        self._given: dict[int, int] = {}  # prompt tokens; when they are read, the manager knows
        self._manager = _started(_twin(model), max_running_tokens, ends)
        self._warm_up()
        threading.Thread(target=self._stop_with_process, daemon=True).start()

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        name = str(sequence_id)
        self._running[name] = (sequence_id, sampling)
        self._given[sequence_id] = len(prompt)
        self._manager.add_request(
            list(prompt),
            request_id=name,
            max_new_tokens=sampling.max_new_tokens,
            streaming=True,
        )

    def cancel(self, sequence_id: int) -> None:
        del self._running[str(sequence_id)]
        self._told.pop(sequence_id, None)
        self._manager.cancel_request(str(sequence_id))

    def step(self, wait_s: float) -> StepOutcome:
        """What has ended since the last call; waits `wait_s` for the first of it.

        The tokens of a text are counted when it ends, those of a prompt when it is given.
        Raises ServingError when the manager failed.
        """
        finished: dict[int, tuple[Generated, ...]] = {}
        written: dict[int, list[Written]] = {}
        for result in self._news(wait_s):
            if result.error is not None:
                raise ServingError(f"continuous batching failed: {result.error}")
            known = self._running.get(result.request_id)
            if known is None:  # cancelled, or ended by a stop string, while it was under way
                continue
            sequence_id, sampling = known
            token_ids = tuple(result.generated_tokens)
            generated = self._ended(token_ids, sampling, result.is_finished())
            so_far = token_ids if generated is None else generated.token_ids
            news = so_far[self._told.get(sequence_id, 0) :]
            if news:
                written.setdefault(sequence_id, []).append(Written(news))
            self._told[sequence_id] = len(so_far)
            if generated is not None:
                del self._running[result.request_id], self._told[sequence_id]
                finished[sequence_id] = (generated,)
                if not result.is_finished():
                    self._manager.cancel_request(result.request_id)
        tokens = sum(len(g.token_ids) for (g,) in finished.values())
        read, self._given = self._given, {}
        return StepOutcome(finished, tokens, read, written)

    def _news(self, wait_s: float) -> Iterator[Any]:
        result = self._manager.get_result(timeout=wait_s)
        while result is not None:
            yield result
            result = self._manager.get_result(timeout=0)
        if self._running and not self._manager.is_running():
            raise ServingError("continuous batching ended by itself")

    def _ended(
        self, token_ids: tuple[int, ...], sampling: Sampling, is_finished: bool
    ) -> Generated | None:
        """What has become of a request, None while it goes on."""
        has_ended = bool(token_ids) and token_ids[-1] in self._ends
        text = token_ids[:-1] if has_ended else token_ids
        if has_stop(text, sampling.stop, self._decode):
            # The manager's list grows while we read it: back to the first token that was enough.
            while has_stop(text[:-1], sampling.stop, self._decode):
                text = text[:-1]
            return Generated(text, "stop")
        if has_ended:
            return Generated(text, "stop")
        return Generated(text, "length") if is_finished else None

    def _warm_up(self) -> None:
        """The first pass builds the cache; a model that the manager does not take fails here."""
        self.add(0, [1, 2, 3], Sampling(max_new_tokens=2))
        try:
            while self._running:
                self.step(WARM_UP_WAIT_S)
        except Exception as error:
            self._manager.stop(block=True)
            raise CannotLoad(f"transformers' continuous batching failed: {error}") from error

    def _stop_with_process(self) -> None:
        """The manager's thread would keep a process alive whose main thread has ended."""
        threading.main_thread().join()
        for name in list(self._running):
            self._manager.cancel_request(name)
        self._manager.stop(block=False)


def _is_plain_attention(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    return kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None


def _twin(model: Any) -> Any:
    """The model again over the same weights: paged attention is set in a model's config, and what
    the manager does not take is run on the model as it was."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _started(model: Any, max_running_tokens: int, ends: frozenset[int]) -> Any:
    config = GenerationConfig(do_sample=False, eos_token_id=sorted(ends) or NO_END)
    batching = ContinuousBatchingConfig(
        block_size=BLOCK_TOKENS,
        num_blocks=max_running_tokens // BLOCK_TOKENS + 2 * MAX_SEQUENCES,
        max_batch_tokens=TOKENS_PER_PASS,
        allow_block_sharing=False,
        use_async_batching=False,
    )
    try:
        manager = model.init_continuous_batching(
            generation_config=config, continuous_batching_config=batching
        )
    except Exception as error:
        raise CannotLoad(f"transformers' continuous batching failed: {error}") from error
    manager.start()
    return manager
