"""Decoder LLMs on OpenVINO GenAI's continuous batching: a GGUF file or a folder with its IR.

`ContinuousBatchingPipeline.step` computes one token for every running sequence and reads long
prompts in chunks between them; it holds the interpreter while it computes, so it is called
directly on the worker's loop. Tokens stay inside the pipeline until a sequence has ended.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import structlog
from openvino_genai import py_openvino_genai as native

from app.core.errors import CannotLoad
from app.core.inference import Generated, Sampling, TokenIds
from app.runtimes.base import StepOutcome, StreamPlan

log = structlog.get_logger()

DEFAULT_CACHE_GB = 1
CACHE_TOKENS_PER_GB = 40_000  # lower bound for a 135M model's cache at 8 bits
CHUNK_TOKENS = 256
LIBRARY_ERRORS = (RuntimeError, IndexError, ValueError)  # what it raises for a broken file
UNFINISHED = "unfinished-"
ABANDONED_AFTER_S = 3600
PREPARED_FILES = ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml")
WARM_UP_PROMPT = range(100, 116)  # any ordinary tokens


class GenAiTokenizer:
    """The checkpoint's tokenizer as GenAI builds it from the model's own files."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as it stands, no token added; cut at the checkpoint's own context,
        which is never less than `max_tokens`.
        """
        return [
            self._tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
            for text in texts
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids))
        return text


class OpenVinoLlm:
    """Continuous batching of one decoder model. Not thread-safe: one loop calls it.

    prepared: where the model is kept in OpenVINO's own form after the first load of a GGUF file.
    options: max_tokens (context), cache_gb (size of the key-value cache).
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        prepared: Path | None = None,
        max_tokens: int,
        cache_gb: int = DEFAULT_CACHE_GB,
    ) -> None:
        self.threads = plan.threads
        self.max_running_tokens = cache_gb * CACHE_TOKENS_PER_GB
        self._pipeline = open_pipeline(Path(files["model"]), prepared, cache_gb, plan.threads)
        self.tokenizer = GenAiTokenizer(self._pipeline.get_tokenizer(), max_tokens)
        self._eos = self._pipeline.get_tokenizer().get_eos_token_id()
        self._handles: dict[int, Any] = {}
        self._warm_up()

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step."""
        ids = ov.Tensor(np.asarray([prompt], dtype=np.int64))
        config = self._config(sampling)
        self._handles[sequence_id] = self._pipeline.add_request(sequence_id, ids, config)

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step."""
        self._handles.pop(sequence_id).cancel()

    def step(self) -> StepOutcome:
        """One token for every running sequence."""
        tokens = len(self._handles)
        self._pipeline.step()
        ended = [i for i, handle in self._handles.items() if _has_ended(handle)]
        finished = {i: _generated(self._handles.pop(i)) for i in ended}
        return StepOutcome(finished, tokens)

    def _warm_up(self) -> None:
        """Generate a little, so that no caller pays for the first run of the kernels."""
        self.add(0, WARM_UP_PROMPT, Sampling(max_new_tokens=2))
        while self._handles:
            self.step()

    def _config(self, sampling: Sampling) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = sampling.max_new_tokens
        config.eos_token_id = self._eos
        config.num_return_sequences = sampling.sequences
        config.stop_strings = set(sampling.stop)
        # Without it a text that begins with a stop has no output at all; the task cuts it off.
        config.include_stop_str_in_output = True
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = sampling.seed
            if sampling.top_k is not None:
                config.top_k = sampling.top_k
        return config


def open_pipeline(model: Path, prepared: Path | None, cache_gb: int, threads: int) -> Any:
    """The pipeline over `prepared` if it is there; otherwise over `model`, filling `prepared`.

    Reading a GGUF file takes twice as long as reading what became of it. Raises CannotLoad.
    """
    if prepared is not None and prepared.is_dir():
        try:
            return _pipeline(prepared, cache_gb, threads)
        except LIBRARY_ERRORS as error:
            log.warning("prepared_model_damaged", path=str(prepared), error=str(error))
            shutil.rmtree(prepared, ignore_errors=True)
    try:
        if prepared is not None:
            _prepare(model, prepared)
        source = prepared if prepared is not None and prepared.is_dir() else model
        return _pipeline(source, cache_gb, threads)
    except LIBRARY_ERRORS as error:
        raise CannotLoad(f"OpenVINO GenAI cannot read {model}: {error}") from error


def _pipeline(source: Path, cache_gb: int, threads: int, **saving: bool) -> Any:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = cache_gb
    scheduler.max_num_batched_tokens = CHUNK_TOKENS
    scheduler.dynamic_split_fuse = True
    properties = {"INFERENCE_NUM_THREADS": threads, **saving}
    return genai.ContinuousBatchingPipeline(str(source), scheduler, "CPU", properties, saving)


def _prepare(model: Path, prepared: Path) -> None:
    """Fill the folder in one move; a store that cannot be written costs time, no more.

    The library writes beside the file that it reads, hence the link in a folder of its own.
    """
    try:
        prepared.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(prepared.parent)
        with tempfile.TemporaryDirectory(dir=prepared.parent, prefix=UNFINISHED) as folder:
            draft = Path(folder) / "draft"
            draft.mkdir()
            link = draft / "model.gguf"
            link.symlink_to(model)
            _pipeline(link, DEFAULT_CACHE_GB, 1, enable_save_ov_model=True)
            link.unlink()
            missing = [name for name in PREPARED_FILES if not (draft / name).is_file()]
            if missing:
                raise OSError(f"the library did not write {', '.join(missing)}")
            draft.rename(prepared)
    except OSError as error:
        if not prepared.is_dir():  # another server may have been faster
            log.warning("model_not_prepared", path=str(prepared), error=str(error))


def _remove_abandoned(folder: Path) -> None:
    """What a worker that was killed while preparing left behind, once nobody can be at it."""
    for left in folder.glob(f"{UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


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
