"""Encoder-decoders on OpenVINO: the graphs of app/preparing/bart.py and the loop over them.

A document is read once. Then all documents of a batch are written in step, each by its own rules
(app/runtimes/beam_search.py), one row per running text; a document that is done leaves, and the
rest gets faster.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.core.errors import CannotLoad
from app.core.inference import Decoding, Generated, TokenIds
from app.runtimes.base import StreamPlan
from app.runtimes.beam_search import Draft, Marks, start
from app.runtimes.mapped import drop_pages
from app.runtimes.next_tokens import NextTokens
from app.runtimes.openvino_threads import UNPINNED
from app.runtimes.parts import HELD_TOKENS, parts
from app.runtimes.text_tokenizer import text_tokenizer

Floats = NDArray[np.float32]

DYNAMIC_QUANTIZATION_GROUP = 128
READ_TOKENS = 512  # in one pass of the encoder; more gain nothing and need more memory
SOURCE_TOKENS = 4096  # of documents that are written about at once: 400 MB for BART-large
LANES = 16  # float32 numbers in the CPU's widest vector: documents are filled up to whole ones
PROBE = Decoding(max_tokens=4, min_tokens=4, beams=4)


class OpenVinoSeq2Seq:
    """Summarizers and translators of BART's kind. `run` may be called by `plan.streams` threads.

    files: `model`, the prepared folder, and `tokenizer`. options: max_tokens, the longest source;
    decoder_start, eos, pad, forced_eos: token ids; precision: of the prepared weights.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        decoder_start: int,
        eos: int,
        pad: int,
        forced_eos: int | None = None,
        precision: str = "int8",
    ) -> None:
        self.plan = plan
        self.tokenizer = text_tokenizer(files, max_tokens)
        folder = Path(files["model"])
        properties = _properties(plan, precision)
        core = ov.Core()
        try:
            encoder, decoder = (
                core.compile_model(folder / f"{part}.xml", "CPU", properties)
                for part in ("encoder", "decoder")
            )
            words = np.load(folder / "words.npy", mmap_mode="r")
        except (RuntimeError, OSError, ValueError) as error:
            raise CannotLoad(f"OpenVINO cannot read {folder}: {error}") from error
        marks = Marks(decoder_start, eos, forced_eos)
        self._writers: SimpleQueue[_Writer] = SimpleQueue()
        for _ in range(plan.streams):
            reading, writing = encoder.create_infer_request(), decoder.create_infer_request()
            self._writers.put(_Writer(_Reader(reading, words, pad), writing, words, marks))
        # The first run rearranges the weights; after that their files are not read any more.
        self.probe([[eos]])
        for part in ("encoder", "decoder"):
            drop_pages(folder / f"{part}.bin")

    def group_of(self, settings: Any) -> Hashable:
        """Every document has its own rules in any batch."""
        return None

    def probe(self, rows: Sequence[TokenIds]) -> None:
        self.run(rows, [PROBE] * len(rows))

    def run(
        self, rows: Sequence[TokenIds], settings: Sequence[Decoding]
    ) -> list[tuple[Generated, ...]]:
        """One text per row."""
        texts: list[tuple[Generated, ...]] = [()] * len(rows)
        writer = self._writers.get()
        try:
            held = [decoding.held_tokens for decoding in settings]
            lengths = [_filled(len(row)) for row in rows]
            for part in parts(lengths, SOURCE_TOKENS, held, HELD_TOKENS):
                written = writer.write([rows[at] for at in part], [settings[at] for at in part])
                for at, text in zip(part, written, strict=True):
                    texts[at] = (text,)
            return texts
        finally:
            self._writers.put(writer)


class _Reader:
    """Runs the encoder."""

    def __init__(self, request: Any, words: NDArray[Any], pad: int) -> None:
        self._request = request
        self._words = words
        self._pad = pad
        names = [port.any_name for port in request.model_outputs]
        self._names = [name for name in names if name.startswith(("key.", "value."))]

    def read(self, rows: Sequence[TokenIds]) -> "_Sources":
        """Documents that fill the same number of vectors go through together, so that each is
        read as if it were alone."""
        filled = [_filled(len(row)) for row in rows]
        sources = _Sources(rows, self._names, max(filled))
        order = sorted(range(len(rows)), key=filled.__getitem__)
        for length, same in groupby(order, key=filled.__getitem__):
            for part in _chunks(list(same), max(1, READ_TOKENS // length)):
                self._pass([rows[index] for index in part], length)
                for name in self._names:
                    sources.put(name, part, self._request.get_tensor(name).data)
        return sources

    def _pass(self, rows: Sequence[TokenIds], length: int) -> None:
        ids = np.full((len(rows), length), self._pad, np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        embedded = self._words[ids].astype(np.float32)
        self._request.infer({"embedded": embedded, "mask": mask}, share_inputs=True)


class _Sources:
    """What the decoder looks up in the documents: keys and values, and which tokens are real."""

    def __init__(self, rows: Sequence[TokenIds], names: Sequence[str], length: int) -> None:
        self._length = length
        self._arrays: dict[str, Floats] = dict.fromkeys(names, np.empty(0, np.float32))
        self._documents = len(rows)
        self._mask = np.zeros((len(rows), 1, 1, length), np.float32)
        for index, row in enumerate(rows):
            self._mask[index, ..., len(row) :] = -np.inf

    def put(self, name: str, documents: Sequence[int], data: Floats) -> None:
        """data: keys [documents, heads, head width, tokens] or values [documents, heads, tokens,
        head width]; filled up with zeros to the longest document."""
        axis = 3 if name.startswith("key.") else 2
        if not self._arrays[name].size:
            shape = list(data.shape)
            shape[0], shape[axis] = self._documents, self._length
            self._arrays[name] = np.zeros(shape, np.float32)
        at: list[Any] = [documents, *[slice(None)] * 3]
        at[axis] = slice(data.shape[axis])
        self._arrays[name][tuple(at)] = data

    def drop(self, document: int) -> None:
        """The last document takes its place: nothing else moves."""
        self._documents -= 1
        for array in (self._mask, *self._arrays.values()):
            array[document] = array[self._documents]

    def inputs(self) -> Iterator[tuple[str, ov.Tensor]]:
        """Views; they follow what `drop` does to the first documents."""
        for name, array in (("mask", self._mask), *self._arrays.items()):
            yield name, ov.Tensor(array[: self._documents], shared_memory=True)


class _Writer:
    """Runs one batch at a time: reads the documents, then writes token by token."""

    def __init__(self, reader: _Reader, request: Any, words: NDArray[Any], marks: Marks) -> None:
        self._reader = reader
        self._request = request
        self._words = words
        self._marks = marks

    def write(self, rows: Sequence[TokenIds], settings: Sequence[Decoding]) -> list[Generated]:
        sources = self._reader.read(rows)
        drafts = [start(decoding, self._marks) for decoding in settings]
        running = list(range(len(rows)))  # documents, in the order of their place in `sources`
        parents = list(range(len(rows)))
        self._take(sources)
        position = 0
        try:
            while running:
                following = self._step([drafts[index] for index in running], parents, position)
                position += 1
                parents, running = self._choose(drafts, running, following, sources)
        finally:
            self._forget()
        return [draft.result() for draft in drafts]

    def _choose(
        self, drafts: Sequence[Draft], running: list[int], following: NextTokens, sources: _Sources
    ) -> tuple[list[int], list[int]]:
        """Answers the rows that go on, and the documents that they belong to."""
        goes_on: list[list[int]] = []
        first = 0
        for index in running:
            last = first + len(drafts[index].texts)
            chosen = drafts[index].step(following.rows(first, last))
            goes_on.append([first + row for row in chosen])
            first = last
        done = [place for place, index in enumerate(running) if drafts[index].is_done]
        for place in reversed(done):
            _drop(running, place)
            _drop(goes_on, place)
            sources.drop(place)
        if done and running:
            self._take(sources)
        return [row for rows in goes_on for row in rows], running

    def _step(self, drafts: Sequence[Draft], parents: Sequence[int], position: int) -> NextTokens:
        tokens = [text[-1] for draft in drafts for text in draft.texts]
        slots, back = _places([len(draft.texts) for draft in drafts])
        inputs = {
            "embedded": self._words[tokens].astype(np.float32),
            "position": np.array([position], np.int64),
            "beam_idx": np.array(parents, np.int32),
            "slots": slots,
            "back": back,
        }
        self._request.infer(inputs, share_inputs=True)
        logits, best, log_total = (
            self._request.get_tensor(name).data for name in ("logits", "best", "log_total")
        )
        return NextTokens(logits, best, log_total[:, 0])

    def _take(self, sources: _Sources) -> None:
        for name, tensor in sources.inputs():
            self._request.set_tensor(name, tensor)

    def _forget(self) -> None:
        """Let go of the documents and of what was written, which is most of the memory."""
        self._request.reset_state()
        for port in self._request.model_inputs:
            if port.any_name.startswith(("key.", "value.")):
                shape = [size.get_length() if size.is_static else 0 for size in port.partial_shape]
                self._request.set_tensor(port.any_name, ov.Tensor(np.empty(shape, np.float32)))


def _places(beams: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows of each document, filled up with its first; and each row's place among them all."""
    most = max(beams)
    firsts = np.cumsum([0, *beams[:-1]])
    offsets = np.arange(most)
    is_real = offsets < np.array(beams)[:, np.newaxis]
    slots = firsts[:, np.newaxis] + np.where(is_real, offsets, 0)
    return slots.astype(np.int32), np.flatnonzero(is_real).astype(np.int32)


def _drop(items: list[Any], place: int) -> None:
    """The last item takes its place."""
    last = items.pop()
    if place < len(items):
        items[place] = last


def _filled(length: int) -> int:
    return -(-length // LANES) * LANES


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _properties(plan: StreamPlan, precision: str) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "THROUGHPUT" if plan.streams > 1 else "LATENCY",
        "NUM_STREAMS": plan.streams,
        "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
        **UNPINNED,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_QUANTIZATION_GROUP,
        # Of what a row wrote before; half the memory with figures that agree to three digits.
        "KV_CACHE_PRECISION": "f32" if precision == "fp32" else "f16",
    }
