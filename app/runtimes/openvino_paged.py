"""Decoder LLMs on OpenVINO with a paged key-value cache of our own: a GGUF file or a folder.

A step reads pieces of the prompts that are not read yet and the last token of every text that
grows, in one pass of the graph; the next tokens are then chosen from its logits here. We say what
a step holds, who has which block of the cache, and how a token is chosen, so a text depends on its
own request alone (docs/adr/0008). The interpreter is free while the graph computes.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai as genai

from app.core.errors import CannotLoad
from app.core.inference import Generated, Sampling, TokenIds, Written
from app.runtimes.base import StepOutcome, StreamPlan
from app.runtimes.mapped import drop_pages
from app.runtimes.openvino_llm_files import (
    CHUNK_TOKENS,
    LIBRARY_ERRORS,
    SPARE_BLOCKS,
    Setup,
    cache_tokens,
    in_one_line,
    open_decoder,
)
from app.runtimes.openvino_llm_tokenizer import NO_TOKEN, GenAiTokenizer
from app.runtimes.openvino_paged_blocks import BlockPool, Table
from app.runtimes.openvino_paged_model import PagedModel, Part
from app.runtimes.openvino_paged_plan import Piece, PromptReading
from app.runtimes.openvino_paged_texts import BeamTexts, Continuations

OWN_PROMPT = range(100, 116)  # any ordinary tokens


@dataclass(slots=True)
class Request:
    """A prompt and the texts that grow from it. tables: one per text that is read next; before the
    first token the prompt's alone. promised: blocks."""

    prompt: TokenIds
    sampling: Sampling
    texts: Continuations | BeamTexts
    promised: int
    tables: list[Table] = field(default_factory=lambda: [Table()])


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
        self._model, tokenizer, self._ends = open_decoder(
            model, prepared, lambda folder: _load(folder, setup)
        )
        self.tokenizer = GenAiTokenizer(
            tokenizer,
            min(max_tokens, self.max_running_tokens),
            is_own=model.is_dir(),
            vocabulary=self._model.vocabulary,
            ends=self._ends,
        )
        self._blocks = self._new_cache()
        self._company = self._new_company()
        self._scratch = np.empty(self._model.vocabulary, np.float32)
        self._held: deque[int] = deque()  # no room in the cache yet
        self._reading = PromptReading(CHUNK_TOKENS)
        self._requests: dict[int, Request] = {}
        self._writing: dict[int, Request] = {}
        self._warm_up()
        drop_pages(model / "openvino_model.bin")  # the engine has its own copy by now

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self.tokenizer.decode_many(rows)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step that has room to read it."""
        if not prompt:
            raise ValueError("a prompt has at least one token")
        rows = max(sampling.sequences, sampling.beams)
        promised = self._blocks.most_blocks(len(prompt) + sampling.max_new_tokens, rows)
        texts = self._new_texts(prompt, sampling)
        self._requests[sequence_id] = Request(prompt, sampling, texts, promised)
        self._held.append(sequence_id)

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step, read or not."""
        request = self._requests.pop(sequence_id)
        if sequence_id in self._held:
            self._held.remove(sequence_id)
            return
        self._reading.remove([sequence_id])
        self._writing.pop(sequence_id, None)
        self._give_back(request)

    def step(self) -> StepOutcome:
        """One token for every text whose prompt is read; a piece of the prompts that are not."""
        self._admit()
        pieces = self._reading.plan()
        read = {sequence_id: piece.tokens for sequence_id, piece in pieces.items()}
        writing = dict(self._writing)
        parts = [part for request in writing.values() for part in self._next_parts(request)]
        for sequence_id, piece in pieces.items():
            request = self._requests[sequence_id]
            parts.append(self._prompt_part(request, piece))
            if piece.is_last:
                self._writing[sequence_id] = writing[sequence_id] = request
        if not parts:
            return StepOutcome({}, 0, {})
        if len(parts) < self.threads:
            # One text too few: a single token makes up for it, at no cost that could be measured.
            # A piece of two has the same effect for any number, and costs a tenth of a step.
            is_one_short = len(parts) == self.threads - 1
            parts.append(self._company[0 if is_one_short else 1])
        logits = self._model.read(parts)
        return self._book(writing, logits, read)

    def _book(
        self, writing: Mapping[int, Request], logits: Any, read: Mapping[int, int]
    ) -> StepOutcome:
        finished: dict[int, tuple[Generated, ...]] = {}
        written: dict[int, list[Written]] = {}
        copies: list[tuple[int, int]] = []
        tokens = row = 0
        for sequence_id, request in writing.items():
            rows = len(request.tables)
            parents = request.texts.advance(logits[row : row + rows])
            row += rows
            tokens += max(rows, len(parents))
            if isinstance(request.texts, Continuations):
                written[sequence_id] = request.texts.news()
            request.tables, more = self._blocks.continue_from(request.tables, parents)
            copies += more
            if not parents:
                finished[sequence_id] = request.texts.result()
                del self._writing[sequence_id], self._requests[sequence_id]
                self._give_back(request)
        self._model.copy_blocks(copies)
        return StepOutcome(finished, tokens, read, written)

    def _admit(self) -> None:
        """In the order in which they came, as far as the cache has room for all they may write."""
        while self._held and self._blocks.promise(self._requests[self._held[0]].promised):
            sequence_id = self._held.popleft()
            self._reading.add(sequence_id, len(self._requests[sequence_id].prompt))

    def _next_parts(self, request: Request) -> list[Part]:
        parts = []
        for token, table in zip(request.texts.last, request.tables, strict=True):
            past = table.tokens
            self._blocks.grow(table, 1)
            parts.append(Part([token], past, table.blocks))
        return parts

    def _prompt_part(self, request: Request, piece: Piece) -> Part:
        (table,) = request.tables
        self._blocks.grow(table, piece.tokens)
        tokens = request.prompt[piece.start : piece.stop]
        return Part(tokens, piece.start, table.blocks, piece.is_last)

    def _give_back(self, request: Request) -> None:
        for table in request.tables:
            self._blocks.release(table)
        self._blocks.take_back(request.promised)

    def _new_texts(self, prompt: TokenIds, sampling: Sampling) -> Continuations | BeamTexts:
        if sampling.beams > 1:
            return BeamTexts(sampling, self._ends)
        schema = sampling.json_schema
        matchers = (
            [self.tokenizer.matcher(schema) for _ in range(sampling.sequences)] if schema else []
        )
        return Continuations(sampling, prompt, self._ends, self._scratch, self.decode, matchers)

    def _new_cache(self) -> BlockPool:
        size = self._model.block_tokens
        blocks = -(-self.max_running_tokens // size) + SPARE_BLOCKS
        self._model.give_cache(blocks)
        return BlockPool(blocks, size)

    def _new_company(self) -> tuple[Part, Part]:
        """Of one and of two tokens, for steps of fewer texts than threads: the plugin would divide
        the attention of those otherwise, and a text would depend on who is beside it."""
        table = Table()
        self._blocks.promise(1)
        self._blocks.grow(table, 2)
        one, two = (Part(OWN_PROMPT[:n], 0, table.blocks, is_chosen=False) for n in (1, 2))
        return one, two

    def _warm_up(self) -> None:
        """Generate a little, so that no caller pays for the first run of the kernels."""
        self.add(0, OWN_PROMPT, Sampling(max_new_tokens=2))
        while self._requests:
            self.step()


def _load(folder: Path, setup: Setup) -> tuple[PagedModel, Any, list[int]]:
    """The graph, its tokenizer, and the tokens that end a text: the tokenizer's end, and whatever
    else ends one by generation_config.json."""
    model = PagedModel(folder, setup.properties)
    try:
        tokenizer = genai.Tokenizer(str(folder))
        path = folder / "generation_config.json"
        config = genai.GenerationConfig(path) if path.is_file() else genai.GenerationConfig()
    except LIBRARY_ERRORS as error:
        raise CannotLoad(f"OpenVINO cannot read {folder}: {in_one_line(error)}") from error
    own = tokenizer.get_eos_token_id()
    others = sorted(set(config.stop_token_ids) | {config.eos_token_id})
    return model, tokenizer, [t for t in dict.fromkeys([own, *others]) if t != NO_TOKEN]
