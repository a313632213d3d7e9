"""Decoder LLMs on OpenVINO GenAI's continuous batching: a GGUF file or a folder with its IR.

`ContinuousBatchingPipeline.step` computes one token for every running sequence and beside them a
chunk of the prompts that are not read yet (openvino_llm_reading.py says which, and why it matters);
it holds the interpreter while it computes, so it is called directly on the worker's loop. Tokens of
a prompt with one continuation can be read as they come, those of others when all have ended.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino_genai import py_openvino_genai as native

from app.core.inference import Generated, Sampling, TokenIds
from app.runtimes.base import StepOutcome, StreamPlan
from app.runtimes.mapped import drop_pages
from app.runtimes.openvino_llm_files import (
    CHUNK_TOKENS,
    Setup,
    cache_tokens,
    open_pipeline,
)
from app.runtimes.openvino_llm_reading import (
    COMPANY_TOKENS,
    SPARE_TOKENS,
    PromptReading,
    spare_life,
)

OWN_PROMPT = range(100, 116)  # any ordinary tokens
NEVER_CUT = 2**31 - 1
FIRST_OWN_ID = 2**62  # no caller's


class GenAiTokenizer:
    """The checkpoint's tokenizer as GenAI builds it from the model's own files.

    is_own: it is the publisher's own in full, so what that puts in front of a text (often nothing)
    comes in front. One that was rebuilt from a GGUF file puts nothing there, and cuts at the
    checkpoint's own context, which is never less than `max_tokens`.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, *, is_own: bool) -> None:
        self.max_tokens = max_tokens
        self.counts_fully = is_own
        self._tokenizer = tokenizer
        self._is_own = is_own

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [self._ids(text) for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids))
        return text

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The same for several: 32 rows take 1.3 times as long as one."""
        texts: list[str] = self._tokenizer.decode([list(row) for row in rows])
        return texts

    def _ids(self, text: str) -> list[int]:
        encoded = self._tokenizer.encode(
            text, add_special_tokens=self._is_own, max_length=NEVER_CUT
        )
        ids: list[int] = encoded.input_ids.data[0].tolist()
        return ids


@dataclass(slots=True)
class Written:
    """What was read of a continuation so far."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = "stop"


class OpenVinoLlm:
    """Continuous batching of one decoder model. Not thread-safe: one loop calls it.

    files: `model` is a GGUF file, or a folder with the model and its tokenizers in OpenVINO's form.
    prepared: where the latter is kept after the first load of a GGUF file.
    options: max_tokens (context), precision (of a folder), kv_bytes_per_token (key and value of
    one token over all layers in fp32), cache_mb (most memory for them).
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        prepared: Path | None = None,
        max_tokens: int,
        precision: str | None = None,
        kv_bytes_per_token: int | None = None,
        cache_mb: int | None = None,
    ) -> None:
        model = Path(files["model"])
        if precision is None and model.is_dir():
            precision = "int8"
        self.threads = plan.threads
        self.max_running_tokens = cache_tokens(kv_bytes_per_token, precision, max_tokens, cache_mb)
        setup = Setup(plan.threads, self.max_running_tokens, precision)
        self._pipeline = open_pipeline(model, prepared, setup)
        self.tokenizer = GenAiTokenizer(
            self._pipeline.get_tokenizer(),
            min(max_tokens, self.max_running_tokens),
            is_own=model.is_dir(),
        )
        self._ends = self._ending_tokens()
        self._reading = PromptReading(CHUNK_TOKENS, plan.threads)
        self._held: dict[int, tuple[Any, Any]] = {}  # prompts that the pipeline does not have yet
        self._handles: dict[int, Any] = {}
        self._written: dict[int, Written] = {}  # of prompts with one continuation
        self._spare: Any = None
        self._own_ids = itertools.count(FIRST_OWN_ID)
        self._warm_up()
        drop_pages(model / "openvino_model.bin")  # the engine has its own copy by now

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self.tokenizer.decode_many(rows)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step that has room to read it."""
        config = self._config(sampling)
        config.validate()  # here, where it concerns this prompt alone, and not in a step of all
        if not prompt:
            raise ValueError("a prompt has at least one token")
        self._held[sequence_id] = _tensor(prompt), config
        rows = max(sampling.sequences, sampling.beams)
        if rows == 1:
            self._written[sequence_id] = Written()
        self._reading.add(sequence_id, len(prompt), rows)

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step, read or not."""
        self._reading.remove([sequence_id])
        self._written.pop(sequence_id, None)
        if self._held.pop(sequence_id, None) is None:
            self._handles.pop(sequence_id).cancel()
            if not self._handles:  # no step would follow that gives its part of the cache back
                self._pipeline.step()

    def step(self) -> StepOutcome:
        """One token for every sequence whose prompt is read; a piece of those that are not."""
        read = self._prepare_step()
        self._pipeline.step()
        ended = [i for i, handle in self._handles.items() if _has_ended(handle)]
        self._reading.remove(ended)
        written = self._read_written()
        finished = {i: self._generated(i) for i in ended}
        tokens = self._reading.writing + len(finished)
        return StepOutcome(finished, tokens, read, written)

    def _read_written(self) -> dict[int, tuple[int, ...]]:
        """Reading takes the tokens out of the pipeline, so they are kept here."""
        written: dict[int, tuple[int, ...]] = {}
        for sequence_id, so_far in self._written.items():
            handle = self._handles.get(sequence_id)
            while handle is not None and handle.can_read():
                (output,) = handle.read().values()
                so_far.token_ids += output.generated_ids
                so_far.finish_reason = _reason(output)
                written[sequence_id] = (*written.get(sequence_id, ()), *output.generated_ids)
        return written

    def _generated(self, sequence_id: int) -> tuple[Generated, ...]:
        """Several in the order in which the pipeline numbers its sequences."""
        handle = self._handles.pop(sequence_id)
        if (one := self._written.pop(sequence_id, None)) is not None:
            return (Generated(tuple(one.token_ids), one.finish_reason),)
        outputs = handle.read_all()
        return tuple(Generated(tuple(each.generated_ids), _reason(each)) for each in outputs)

    def _prepare_step(self) -> dict[int, int]:
        """Give the pipeline what it is to read, in the order that app/runtimes/openvino_llm_reading
        counts on. Returns the prompt tokens that it will read."""
        if self._spare is not None and _has_ended(self._spare):
            self._spare = None
        plan = self._reading.plan(has_spare=self._spare is not None)
        if plan.drop_spare:
            self._spare.cancel()
            self._spare = None
        if plan.start_spare:
            self._spare = self._add_own(OWN_PROMPT[:SPARE_TOKENS], spare_life(self._reading.left))
        for sequence_id in plan.join:
            prompt, config = self._held.pop(sequence_id)
            self._handles[sequence_id] = self._pipeline.add_request(sequence_id, prompt, config)
        if plan.needs_company:
            self._add_own(OWN_PROMPT[:COMPANY_TOKENS], 1)
        return plan.read

    def _add_own(self, prompt: Sequence[int], new_tokens: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        return self._pipeline.add_request(next(self._own_ids), _tensor(prompt), config)

    def _ending_tokens(self) -> set[int]:
        """The tokenizer's end of text, and whatever else ends one (generation_config.json)."""
        own = self._pipeline.get_tokenizer().get_eos_token_id()
        return {own, *self._pipeline.get_config().stop_token_ids} - {-1}

    def _warm_up(self) -> None:
        """Generate a little, so that no caller pays for the first run of the kernels."""
        self.add(0, OWN_PROMPT, Sampling(max_new_tokens=2))
        while self._held or self._handles:
            self.step()

    def _config(self, sampling: Sampling) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = sampling.max_new_tokens
        config.min_new_tokens = sampling.min_new_tokens
        config.stop_token_ids = self._ends
        config.num_return_sequences = sampling.sequences
        config.stop_strings = set(sampling.stop)
        # Without it a text that begins with a stop has no output at all; the task cuts it off.
        config.include_stop_str_in_output = True
        config.do_sample = sampling.temperature > 0
        config.repetition_penalty = sampling.repetition_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.presence_penalty = sampling.presence_penalty
        if sampling.beams > 1:
            config.num_beams = sampling.beams
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = sampling.seed
            if sampling.top_k is not None:
                config.top_k = sampling.top_k
        return config


def _tensor(prompt: Sequence[int]) -> Any:
    return ov.Tensor(np.asarray([prompt], dtype=np.int64))


def _has_ended(handle: Any) -> bool:
    return bool(handle.get_status() != genai.GenerationStatus.RUNNING)


def _reason(output: Any) -> str:
    is_cut = output.finish_reason == native.GenerationFinishReason.LENGTH
    return "length" if is_cut else "stop"
