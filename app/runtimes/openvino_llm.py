"""Decoder LLMs on OpenVINO GenAI's continuous batching: a GGUF file or a folder with its IR.

`ContinuousBatchingPipeline.step` computes one token for every running sequence and reads long
prompts in chunks between them; it holds the interpreter while it computes, so it is called
directly on the worker's loop. Tokens stay inside the pipeline until a sequence has ended.
"""

from collections.abc import Mapping, Sequence
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
    FP32,
    MOST_WHOLE_PROMPT,
    Setup,
    cache_tokens,
    open_pipeline,
)

WARM_UP_PROMPT = range(100, 116)  # any ordinary tokens
NEVER_CUT = 2**31 - 1
COMPANION = 2**62  # no caller's id
COMPANION_TOKENS = 64


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

    def _ids(self, text: str) -> list[int]:
        encoded = self._tokenizer.encode(
            text, add_special_tokens=self._is_own, max_length=NEVER_CUT
        )
        ids: list[int] = encoded.input_ids.data[0].tolist()
        return ids


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
        # Where a prompt is cut depends on its neighbours, and with it how an 8-bit cache rounds.
        whole = max_tokens if model.is_dir() and max_tokens <= MOST_WHOLE_PROMPT else 0
        setup = Setup(plan.threads, self.max_running_tokens, precision, whole)
        self._pipeline = open_pipeline(model, prepared, setup)
        self.tokenizer = GenAiTokenizer(
            self._pipeline.get_tokenizer(),
            min(max_tokens, self.max_running_tokens),
            is_own=model.is_dir(),
        )
        self._ends = self._ending_tokens()
        self._companion: Any = None
        self._joining: list[int] = []  # lengths of the prompts that the next step reads
        self._needs_company = model.is_dir() and precision != FP32
        self._handles: dict[int, Any] = {}
        self._warm_up()
        drop_pages(model / "openvino_model.bin")  # the engine has its own copy by now

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step."""
        ids = ov.Tensor(np.asarray([prompt], dtype=np.int64))
        config = self._config(sampling)
        self._handles[sequence_id] = self._pipeline.add_request(sequence_id, ids, config)
        self._joining.append(len(prompt))

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step."""
        self._handles.pop(sequence_id).cancel()

    def step(self) -> StepOutcome:
        """One token for every running sequence."""
        tokens = len(self._handles)
        if self._needs_company:
            self._keep_company()
        self._pipeline.step()
        ended = [i for i, handle in self._handles.items() if _has_ended(handle)]
        finished = {i: _generated(self._handles.pop(i)) for i in ended}
        return StepOutcome(finished, tokens)

    def _keep_company(self) -> None:
        """Let a prompt of our own run beside one that would be alone.

        The CPU plugin has another kernel for a single row than for two and more, and it rounds the
        activations of quantised weights otherwise: a greedy text would depend on its neighbours.
        """
        is_wanted = len(self._handles) == 1
        if sum(self._joining) == 1:  # prompts are read apart from whatever runs
            self._dismiss()
            is_wanted = True
        self._joining.clear()
        if self._companion is not None and (not is_wanted or _has_ended(self._companion)):
            self._dismiss()
        if is_wanted and self._companion is None:
            config = genai.GenerationConfig()
            config.max_new_tokens = COMPANION_TOKENS
            config.ignore_eos = True
            ids = ov.Tensor(np.asarray([WARM_UP_PROMPT[:1]], dtype=np.int64))
            self._companion = self._pipeline.add_request(COMPANION, ids, config)

    def _dismiss(self) -> None:
        if self._companion is not None and not _has_ended(self._companion):
            self._companion.cancel()
        self._companion = None

    def _ending_tokens(self) -> set[int]:
        """The tokenizer's end of text, and whatever else ends one (generation_config.json)."""
        own = self._pipeline.get_tokenizer().get_eos_token_id()
        return {own, *self._pipeline.get_config().stop_token_ids} - {-1}

    def _warm_up(self) -> None:
        """Generate a little, so that no caller pays for the first run of the kernels."""
        self.add(0, WARM_UP_PROMPT, Sampling(max_new_tokens=2))
        while self._handles:
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


def _has_ended(handle: Any) -> bool:
    return bool(handle.get_status() != genai.GenerationStatus.RUNNING)


def _generated(handle: Any) -> tuple[Generated, ...]:
    """In the order in which the pipeline numbers its sequences."""
    length = native.GenerationFinishReason.LENGTH
    return tuple(
        Generated(
            tuple(output.generated_ids), "length" if output.finish_reason == length else "stop"
        )
        for output in handle.read_all()
    )
