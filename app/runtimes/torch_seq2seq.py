"""Encoder-decoders on transformers' `generate`: the reference for summarizing and translating.

A batch is one call of `generate`, so its rows share one `Decoding`. What `Decoding` does not speak
of (suppressed tokens, a forced last token) stays as the checkpoint's generation_config.json says.
`precision` is without effect: torch serves the checkpoint's weights in `dtype`.
"""

import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from app.core.errors import CannotLoad
from app.core.inference import Decoding, Generated, TokenIds
from app.runtimes.base import StreamPlan
from app.runtimes.torch_checkpoint import load_model, row_tokenizer
from app.runtimes.torch_device import compute, place

PROBE = Decoding(max_tokens=4, min_tokens=4)

_random_numbers = threading.Lock()  # `generate` draws from the process's one generator


class ForcedPrefix(LogitsProcessor):
    """Makes the first new tokens what they are to be.

    As transformers' own forced first token: the prefix counts as generated, with probability 1, so
    lengths and the scores of beams are those of the checkpoint under `generate`.
    """

    def __init__(self, prefix: Sequence[int]) -> None:
        self._prefix = prefix

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = input_ids.shape[1] - 1  # behind the start token
        if at >= len(self._prefix):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._prefix[at]] = 0
        return forced


class TorchSeq2Seq:
    """`run` may be called by `plan.streams` threads at once; on a GPU they take turns.

    options: max_tokens, the longest source; decoder_start, eos and pad where the checkpoint's own
    are not meant; device, dtype: app/runtimes/torch_device.py.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        decoder_start: int | None = None,
        eos: int | None = None,
        pad: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        precision: str = "fp32",
    ) -> None:
        self.plan = plan
        self._placement = place(device, dtype)
        self.tokenizer = row_tokenizer(files, max_tokens)
        self._model = load_model(Path(files["model"]), AutoModelForSeq2SeqLM, self._placement)
        own = self._model.generation_config
        start = _first_known(decoder_start, own.decoder_start_token_id, own.bos_token_id)
        end = _first_known(eos, own.eos_token_id)
        if start is None or end is None:
            missing = "decoder_start_token_id" if start is None else "eos_token_id"
            raise CannotLoad(f"{files['model']} names no {missing} in generation_config.json")
        self._ends = tuple(end) if isinstance(end, list) else (end,)
        self._pad = _first_known(pad, own.pad_token_id, self._ends[0])
        self._forces_end = own.forced_eos_token_id is not None
        own.decoder_start_token_id = start
        own.eos_token_id = list(self._ends)
        own.pad_token_id = self._pad
        own.forced_bos_token_id = None  # said by `Decoding.prefix`
        own.max_length = own.min_length = None  # said by `Decoding`, as numbers of new tokens

    def group_of(self, settings: Decoding) -> Hashable:
        return settings

    def probe(self, rows: Sequence[TokenIds]) -> None:
        """Ids of any vocabulary will do."""
        size = self._model.config.vocab_size
        self.run([[i % size for i in row] for row in rows], [PROBE] * len(rows))

    def run(
        self, rows: Sequence[TokenIds], settings: Sequence[Decoding]
    ) -> list[tuple[Generated, ...]]:
        """One text per row, without start token, prefix, end and padding."""
        decoding = settings[0]
        if decoding.temperature == 0:
            return compute(
                self._placement, self.plan.threads, lambda: self._generate(rows, decoding)
            )
        # Alone: what a row draws must depend on its seed, not on its neighbours.
        return [self._sample(row, decoding) for row in rows]

    def _sample(self, row: TokenIds, decoding: Decoding) -> tuple[Generated, ...]:
        device = self._placement.device
        gpus = [device] if device.type == "cuda" else []
        with _random_numbers, torch.random.fork_rng(gpus):
            torch.manual_seed(decoding.seed)
            (texts,) = compute(
                self._placement, self.plan.threads, lambda: self._generate([row], decoding)
            )
        return texts

    def _generate(
        self, rows: Sequence[TokenIds], decoding: Decoding
    ) -> list[tuple[Generated, ...]]:
        ids = torch.full((len(rows), max(map(len, rows))), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
            mask[index, : len(row)] = 1
        device = self._placement.device
        written = self._model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=generation_config(decoding),
            logits_processor=LogitsProcessorList([ForcedPrefix(decoding.prefix)]),
        )
        return [(self._generated(row, decoding),) for row in written[:, 1:].tolist()]

    def _generated(self, new_tokens: list[int], decoding: Decoding) -> Generated:
        begin = len(decoding.prefix)
        end = next(
            (at for at in range(begin, len(new_tokens)) if new_tokens[at] in self._ends),
            None,
        )
        # A forced end at the limit says nothing about whether the text had come to its end.
        has_ended = end is not None and not (self._forces_end and end == decoding.max_tokens - 1)
        return Generated(tuple(new_tokens[begin:end]), "stop" if has_ended else "length")


def generation_config(decoding: Decoding) -> GenerationConfig:
    """Every field that `Decoding` speaks of is set: what is None is taken from the checkpoint."""
    samples = decoding.temperature > 0
    drawing = (
        {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k or 0,
        }
        if samples
        else {}
    )
    return GenerationConfig(
        max_new_tokens=decoding.max_tokens,
        min_new_tokens=decoding.min_tokens,
        num_beams=decoding.beams,
        num_return_sequences=1,
        length_penalty=decoding.length_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram,
        repetition_penalty=decoding.repetition_penalty,
        early_stopping=decoding.early_stopping,
        do_sample=samples,
        **drawing,
    )


def _first_known(*candidates: Any) -> Any:
    return next((candidate for candidate in candidates if candidate is not None), None)
