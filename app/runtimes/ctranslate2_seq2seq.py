"""Encoder-decoders on CTranslate2: rows of source tokens in, one written text per row out.

The library takes every decoding setting per call, so only rows with equal settings share a batch.
A running batch cannot be stopped; cancelled and expired rows leave while they wait.

Beside transformers' `generate`, on the same float32 weights (tests/hub/test_seq2seq.py):
greedy decoding is equal token by token. Beam search is equal to that of transformers with
`renormalize_logits=True`: this library takes the logarithms of the probabilities after tokens were
forbidden (a repeated n-gram, an end before the minimum) and transformers by default before, so
that scores of beams differ wherever something was forbidden. What else differs:

- a text that would end with its first token does so only where that is the likeliest token.
- `early_stopping` false: transformers goes on while its estimate says that a better text may
  come, the library until twice as many texts as beams have ended.
- the repetition penalty: transformers counts the decoder's start token, which is the end token of
  some models, among those that are repeated; and among beams it penalises logarithms of
  probabilities, the library what they are made of.
"""

import json
import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from app.core.errors import CannotLoad
from app.core.inference import Decoding, Generated, TokenIds
from app.runtimes.base import StreamPlan
from app.runtimes.parts import HELD_TOKENS
from app.runtimes.text_tokenizer import text_tokenizer

COMPUTE_TYPES = {"int8": "int8", "fp32": "float32"}
PROBE = Decoding(max_tokens=8, min_tokens=8, beams=4)
SEEDS = 2**32  # as many as the library tells apart
PATIENCE_AFTER_THE_FIRST = 2.0

_random_numbers = threading.Lock()  # the library has one seed for the process


class CTranslate2Seq2Seq:
    """`run` may be called by `plan.streams` threads at once.

    files: `model`, a folder that CTranslate2's converters made; `tokenizer`, a tokenizer.json or a
    sentencepieces.json.
    options: max_tokens, the longest source; decoder_start, for folders that do not say it; eos;
    forced_eos, where the checkpoint ends a text that reached its limit with it; precision of the
    weights, "int8" or "fp32". pad is not needed: the library pads by itself.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        decoder_start: int,
        eos: int,
        pad: int | None = None,
        forced_eos: int | None = None,
        precision: str = "int8",
    ) -> None:
        if precision not in COMPUTE_TYPES:
            known = ", ".join(COMPUTE_TYPES)
            raise CannotLoad(f"precision {precision!r} is not for CTranslate2; it has: {known}")
        self.plan = plan
        self._folder = Path(files["model"])
        self._compute_type = COMPUTE_TYPES[precision]
        self.tokenizer = text_tokenizer(files, max_tokens)
        self._sources = _vocabulary(self._folder, "source")
        self._targets = _vocabulary(self._folder, "target")
        self._ids = {token: index for index, token in enumerate(self._targets)}
        self._start = () if _names_start(self._folder) else (self._targets[decoder_start],)
        self._eos = eos
        self._forces_end = forced_eos is not None
        self._translator = self._open(plan.streams)

    def group_of(self, settings: Decoding) -> Hashable:
        return settings

    def probe(self, rows: Sequence[TokenIds]) -> None:
        """The usual beams, a few tokens: the rest would be more of the same. Ids of any
        vocabulary will do."""
        size = len(self._sources)
        self._translate(self._translator, [[i % size for i in row] for row in rows], PROBE)

    def run(
        self, rows: Sequence[TokenIds], settings: Sequence[Decoding]
    ) -> list[tuple[Generated, ...]]:
        """One text per row, without start token, prefix and end token."""
        decoding = settings[0]
        if decoding.temperature > 0:
            return [self._sample(row, decoding) for row in rows]
        return self._translate(self._translator, rows, decoding)

    def _sample(self, row: TokenIds, decoding: Decoding) -> tuple[Generated, ...]:
        """One row on an engine of its own, because a thread of the library takes a seed once, when
        it first draws. Costs a second load of the weights for as long as it runs.
        """
        with _random_numbers:
            ctranslate2.set_random_seed(decoding.seed % SEEDS)
            (texts,) = self._translate(self._open(streams=1), [row], decoding)
        return texts

    def _open(self, streams: int) -> Any:
        try:
            return ctranslate2.Translator(
                str(self._folder),
                device="cpu",
                compute_type=self._compute_type,
                inter_threads=streams,
                intra_threads=self.plan.threads,
            )
        except (RuntimeError, ValueError) as error:
            raise CannotLoad(f"CTranslate2 cannot read {self._folder}: {error}") from error

    def _translate(
        self, translator: Any, rows: Sequence[TokenIds], decoding: Decoding
    ) -> list[tuple[Generated, ...]]:
        begin = [*self._start, *(self._targets[token] for token in decoding.prefix)]
        results = translator.translate_batch(
            [[self._sources[token] for token in row] for row in rows],
            target_prefix=[begin] * len(rows) if begin else None,
            **self._options(decoding),
        )
        return [(self._generated(result.hypotheses[0], decoding),) for result in results]

    def _options(self, decoding: Decoding) -> dict[str, Any]:
        # A forced end is one of transformers' tokens and none of the library's.
        most = max(1, decoding.max_tokens - self._forces_end)
        sampling = (
            {
                "sampling_temperature": decoding.temperature,
                "sampling_topp": decoding.top_p,
                "sampling_topk": decoding.top_k or 0,
            }
            if decoding.temperature > 0
            else {}
        )
        return {
            "beam_size": decoding.beams,
            "patience": 1.0 if decoding.early_stopping is True else PATIENCE_AFTER_THE_FIRST,
            "length_penalty": decoding.length_penalty,
            "repetition_penalty": decoding.repetition_penalty,
            "no_repeat_ngram_size": decoding.no_repeat_ngram,
            "max_decoding_length": most,
            "min_decoding_length": min(decoding.min_tokens, most),
            "max_input_length": 0,  # rows are cut by tasks
            # More rows than this are written one part after the other.
            "max_batch_size": max(1, HELD_TOKENS // decoding.held_tokens),
            "end_token": [self._eos],
            # Then an end counts in a text's length, as in transformers, and is told from the limit.
            "return_end_token": True,
            **sampling,
        }

    def _generated(self, tokens: Sequence[str], decoding: Decoding) -> Generated:
        ids = [self._ids[token] for token in tokens[len(decoding.prefix) :]]
        if ids and ids[-1] == self._eos:
            return Generated(tuple(ids[:-1]), "stop")
        return Generated(tuple(ids), "length")


def _vocabulary(folder: Path, side: str) -> list[str]:
    """Tokens by id. Raises CannotLoad for a folder without a vocabulary in JSON."""
    for name in ("shared_vocabulary.json", f"{side}_vocabulary.json"):
        try:
            tokens: list[str] = json.loads((folder / name).read_text(encoding="utf-8"))
            return tokens
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CannotLoad(f"{folder / name} is no vocabulary: {error}") from error
    raise CannotLoad(f"{folder} holds no shared_vocabulary.json or {side}_vocabulary.json")


def _names_start(folder: Path) -> bool:
    """Whether the library puts the decoder's start token in front by itself."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{folder / 'config.json'} cannot be read: {error}") from error
    return config.get("decoder_start_token") is not None
