"""Decoder LLMs on transformers: the reference for `tokens`, and their way to an NVIDIA GPU.

Two ways to run a prompt, chosen by the option `batching`:

- own: app/runtimes/torch_stepping.py. Takes everything; exact to the bit, alone or not; one pass
  per prompt and token, so it does not get faster with company.
- manager: transformers' continuous batching (app/runtimes/torch_manager.py) for greedy prompts;
  the others, which its one config for all cannot express, run beside them in the own way.
- auto: manager on a GPU, where it pays, if it takes the model; own on the CPU, where the manager's
  thread would compute outside the worker's share of the CPU.

`precision` is without effect: torch serves the checkpoint's weights in `dtype`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM

from app.core.errors import CannotLoad
from app.core.inference import Sampling, TokenIds
from app.runtimes.base import StepOutcome, StreamPlan
from app.runtimes.torch_checkpoint import (
    LIBRARY_ERRORS,
    first_line,
    load_model,
    prompt_tokenizer,
)
from app.runtimes.torch_device import place
from app.runtimes.torch_manager import MAX_SEQUENCES, ManagedBatches, can_take
from app.runtimes.torch_stepping import Stepping

log = structlog.get_logger()

BATCHINGS = ("auto", "own", "manager")
DEFAULT_CACHE_GB = 1.0
NEWS_WAIT_S = 0.003  # how long a step may wait on the worker's loop, where messages are read


class TorchLlm:
    """Continuous batching of one decoder model. Not thread-safe: one loop calls it.

    options: max_tokens (context), cache_gb (most that keys and values may take), batching, device
    and dtype. kv_bytes_per_token: of one token over all layers in float32, where it is known
    better than the model's config tells.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        prepared: Path | None = None,
        max_tokens: int,
        cache_gb: float = DEFAULT_CACHE_GB,
        kv_bytes_per_token: int | None = None,
        batching: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        precision: str = "fp32",
    ) -> None:
        if batching not in BATCHINGS:
            raise CannotLoad(f"option batching is {batching!r}; use {', '.join(BATCHINGS)}")
        self.threads = plan.threads
        torch.set_num_threads(plan.threads)  # for the threads that libraries start, too
        placement = place(device, dtype)
        self.tokenizer = prompt_tokenizer(files, max_tokens)
        model = load_model(Path(files["model"]), AutoModelForCausalLM, placement)
        per_token = kv_bytes_per_token or _kv_bytes_per_token(model.config)
        room = int(cache_gb * 2**30 / (per_token * placement.dtype.itemsize / 4))
        self.max_running_tokens = min(max(room, max_tokens), MAX_SEQUENCES * max_tokens)
        ends = _ends(model)
        self._own = Stepping(model, placement, plan.threads, ends, self.decode)
        self._managed: ManagedBatches | None = None
        self._warm_up()
        if batching == "manager" or (batching == "auto" and placement.device.type == "cuda"):
            try:
                self._managed = ManagedBatches(model, self.max_running_tokens, ends, self.decode)
            except CannotLoad as error:
                if batching == "manager":
                    raise
                log.warning("continuous_batching_not_used", reason=str(error))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step."""
        if self._managed is not None and can_take(sampling):
            self._managed.add(sequence_id, prompt, sampling)
        else:
            self._own.add(sequence_id, prompt, sampling)

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step."""
        if sequence_id in self._own:
            self._own.cancel(sequence_id)
        elif self._managed is not None:
            self._managed.cancel(sequence_id)

    def step(self) -> StepOutcome:
        """One token for every prompt that is run in the own way, and what the manager has ended
        meanwhile. With prompts at the manager alone a step is a short wait for its news.

        Raises ServingError when the GPU's memory is full or the manager has failed.
        """
        own = self._own.step()
        if self._managed is None:
            return own
        managed = self._managed.step(0 if len(self._own) else NEWS_WAIT_S)
        return StepOutcome(
            {**own.finished, **managed.finished},
            own.tokens + managed.tokens,
            {**own.read, **managed.read},
            {**own.written, **managed.written},
        )

    def _warm_up(self) -> None:
        """Generate a little: a model without a cache is refused here, and nobody pays for the
        first run of the kernels."""
        self._own.add(0, [1, 2, 3], Sampling(max_new_tokens=2))
        try:
            while len(self._own):
                self._own.step()
        except LIBRARY_ERRORS as error:
            raise CannotLoad(f"the model does not continue a text: {first_line(error)}") from error


def _ends(model: Any) -> frozenset[int]:
    """The tokens that end a text; none if the checkpoint names none."""
    told = getattr(model.generation_config, "eos_token_id", None)
    if told is None:
        told = getattr(model.config, "eos_token_id", None)
    return frozenset(told if isinstance(told, list) else [] if told is None else [told])


def _kv_bytes_per_token(config: Any) -> int:
    """Of keys and values in float32, over all layers."""
    text = config.get_text_config(decoder=True)
    all_heads = getattr(text, "num_attention_heads", None)
    if not all_heads:
        raise CannotLoad(f"model type {config.model_type} has no attention, and so no cache of it")
    heads = getattr(text, "num_key_value_heads", None) or all_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // all_heads
    return int(2 * 4 * text.num_hidden_layers * heads * width)
