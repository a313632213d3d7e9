"""The prepared artefact beside its original: the same inputs through both, and the figures.

The prepared one runs in the runtime that will serve it. Nothing is decided here: the report goes
into the manifest, and whoever loads the version knows whether its catalog accepts it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.core.checkpoint import Kind, Parity
from app.core.inference import Sampling
from app.preparing.facts import Facts
from app.preparing.figures import (
    Floats,
    compare_scores,
    compare_sequences,
    compare_tokens,
    compare_vectors,
    judged,
    same_rows,
)
from app.preparing.folder import said_plainly
from app.preparing.job import PrepareJob
from app.preparing.original import Answers, Row
from app.preparing.parity_settings import NEW_TOKENS, decoding_of
from app.runtimes.base import StreamPlan
from app.runtimes.catalogue import runtime_class

BATCH = 8  # rows of unlike lengths at a time, as they are served


def measure(job: PrepareJob, facts: Facts, files: Mapping[str, str], original: Answers) -> Parity:
    """files: role to path in the job's out_folder. Raises CannotLoad when it does not run."""
    runtime = _load(job, facts, {role: str(Path(job.out_folder, p)) for role, p in files.items()})
    with said_plainly("running the prepared files"):
        encoded = runtime.tokenizer.encode(original.texts)
        figures = {"tokenizer_agreement": same_rows(encoded, original.encoded)}
        figures |= _COMPARE[job.kind](runtime, original, facts)
    return judged(job.kind, job.precision, len(original.rows), figures)


def _load(job: PrepareJob, facts: Facts, files: Mapping[str, str]) -> Any:
    adapter = runtime_class(job.runtime, job.kind)
    own: dict[str, Any] = {"prepared": None} if job.kind == "tokens" else {}
    plan = StreamPlan(streams=1, threads=job.threads)
    with said_plainly(f"loading the prepared files into {job.runtime}"):
        return adapter(files, plan=plan, **own, **facts.runtime_options)


def _scores(runtime: Any, original: Answers, facts: Facts) -> dict[str, float]:
    function = facts.task_options["function"]
    return compare_scores(_encode(runtime, original.rows), _floats(original), function)


def _vectors(runtime: Any, original: Answers, facts: Facts) -> dict[str, float]:
    return compare_vectors(_encode(runtime, original.rows), _floats(original))


def _encode(runtime: Any, rows: Sequence[Row]) -> Floats:
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    outputs = [np.asarray(runtime.run(batch, [None] * len(batch))) for batch in batches]
    return np.concatenate(outputs).astype(np.float32)


def _floats(original: Answers) -> Floats:
    return np.asarray(original.outputs, dtype=np.float32)


def _tokens(runtime: Any, original: Answers, facts: Facts) -> dict[str, float]:
    for number, row in enumerate(original.rows):
        runtime.add(number, row, Sampling(max_new_tokens=NEW_TOKENS))
    made: dict[int, Row] = {}
    while len(made) < len(original.rows):
        for number, (generated, *_) in runtime.step().finished.items():
            made[number] = list(generated.token_ids)
    ends = _ids(facts.generation.get("eos_token_id")) | _ids(facts.generation.get("pad_token_id"))
    ours = [_without_end(made[number], ends) for number in range(len(original.rows))]
    return compare_tokens(ours, [_without_end(list(row), ends) for row in original.outputs])


def _sequences(runtime: Any, original: Answers, facts: Facts) -> dict[str, float]:
    search = decoding_of(facts.compared_generation)
    outputs = runtime.run(original.rows, [search] * len(original.rows))
    ends = {facts.runtime_options["eos"], facts.runtime_options["pad"]}
    skipped = len(search.prefix)  # our runtimes hand out what follows the prefix
    ours = [_without_end(list(generated[0].token_ids), ends) for generated in outputs]
    theirs = [_without_end(list(row[skipped:]), ends) for row in original.outputs]
    return compare_sequences(ours, theirs)


def _ids(value: Any) -> set[int]:
    return set(value) if isinstance(value, list) else set() if value is None else {value}


def _without_end(row: Row, ends: set[int]) -> Row:
    """Engines differ in whether the end mark is part of the text, and in padding behind it."""
    end = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[:end]


_COMPARE: Mapping[Kind, Any] = {
    "scores": _scores,
    "vectors": _vectors,
    "tokens": _tokens,
    "sequences": _sequences,
}
