"""What the checkpoint itself answers: float32 in torch, with transformers' own code."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad
from app.preparing.facts import Facts
from app.preparing.folder import said_plainly
from app.preparing.making import Making
from app.preparing.parity_inputs import DOCUMENTS, PROMPTS, TEXTS
from app.preparing.parity_settings import NEW_TOKENS, decoding_of

Row = list[int]
LOADERS: Mapping[Kind, str] = {
    "scores": "AutoModelForSequenceClassification",
    "vectors": "AutoModel",
    "tokens": "AutoModelForCausalLM",
    "sequences": "AutoModelForSeq2SeqLM",
}
TEXTS_OF: Mapping[Kind, Sequence[str]] = {
    "scores": TEXTS,
    "vectors": TEXTS,
    "tokens": PROMPTS,
    "sequences": DOCUMENTS,
}
UNUSED = ("pooler.",)  # weights that an embedder can do without
SHOWN = 3  # names of weights that an error lists


@dataclass(frozen=True, slots=True)
class Answers:
    """encoded: token ids of each text, whole; rows: what was run, cut to the model's length.

    outputs: float32 [rows, width] for encoders, new token ids per row for the others.
    """

    texts: Sequence[str]
    encoded: list[Row]
    rows: list[Row]
    outputs: NDArray[np.float32] | list[Row]


def original_answers(making: Making, facts: Facts) -> Answers:
    """Raises CannotLoad for weights that are missing, damaged or of another shape."""
    import torch

    kind = making.job.kind
    texts = TEXTS_OF[kind]
    adds_special = kind != "tokens"
    encoded: list[Row] = [
        making.tokenizer(text, add_special_tokens=adds_special)["input_ids"] for text in texts
    ]
    limit = int(facts.runtime_options["max_tokens"])
    rows = [_cut(row, limit, kind) for row in encoded]
    model = _load(making, kind)
    with said_plainly("running the original"), torch.inference_mode():
        outputs = _RUN[kind](model, rows, facts)
    del model
    gc.collect()  # its modules refer to each other, and the next step loads the weights again
    return Answers(texts, encoded, rows, outputs)


def _cut(row: Row, limit: int, kind: Kind) -> Row:
    if kind == "tokens":  # room for what is generated
        return row[: max(1, limit - NEW_TOKENS)]
    return row if len(row) <= limit else [*row[: limit - 1], row[-1]]


def _load(making: Making, kind: Kind) -> Any:
    import torch
    import transformers

    with said_plainly("loading the checkpoint with transformers"):
        model, report = getattr(transformers, LOADERS[kind]).from_pretrained(
            str(making.work),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(
        name for name in report["missing_keys"] if kind != "vectors" or not _is_unused(name)
    )
    if missing:
        # transformers would go on with random numbers in their place.
        raise CannotLoad(
            f"the checkpoint has no weights for {', '.join(missing[:SHOWN])}"
            + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
            + f", which {type(model).__name__} needs"
        )
    return model.eval()


def _is_unused(name: str) -> bool:
    return any(part in name for part in UNUSED)


def _scores(model: Any, rows: list[Row], facts: Facts) -> NDArray[np.float32]:
    import torch

    outputs = [model(input_ids=torch.tensor([row])).logits[0].numpy() for row in rows]
    return np.stack(outputs).astype(np.float32)


def _vectors(model: Any, rows: list[Row], facts: Facts) -> NDArray[np.float32]:
    import torch

    vectors = []
    for row in rows:
        hidden = model(input_ids=torch.tensor([row])).last_hidden_state[0].numpy()
        match facts.runtime_options["pooling"]:
            case "cls":
                vectors.append(hidden[0])
            case "last":
                vectors.append(hidden[-1])
            case _:
                vectors.append(hidden.mean(axis=0))
    pooled = np.stack(vectors).astype(np.float32)
    if facts.runtime_options["normalize"]:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return pooled


def _tokens(model: Any, rows: list[Row], facts: Facts) -> list[Row]:
    """Greedy, whatever the checkpoint's own settings: they may sample."""
    import torch
    from transformers import GenerationConfig

    ends = facts.generation.get("eos_token_id")
    pad = facts.generation.get("pad_token_id")
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        eos_token_id=ends,
        pad_token_id=_first(ends) if pad is None else pad,
    )
    model.generation_config = settings
    outputs = []
    for row in rows:
        ids = torch.tensor([row])
        made = model.generate(ids, attention_mask=torch.ones_like(ids))
        outputs.append(made[0, len(row) :].tolist())
    return outputs


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _sequences(model: Any, rows: list[Row], facts: Facts) -> list[Row]:
    """The search that `decoding_of` describes. What that does not speak of (tokens that are never
    written, how scores are scaled) stays as the checkpoint has it."""
    import torch

    search = decoding_of(facts.compared_generation)
    options = facts.runtime_options
    model.generation_config.update(
        max_new_tokens=search.max_tokens,
        min_new_tokens=search.min_tokens,
        max_length=None,
        min_length=None,
        num_beams=search.beams,
        do_sample=False,
        length_penalty=search.length_penalty,
        no_repeat_ngram_size=search.no_repeat_ngram,
        repetition_penalty=search.repetition_penalty,
        early_stopping=search.early_stopping,
        forced_bos_token_id=search.prefix[0] if search.prefix else None,
        forced_eos_token_id=options.get("forced_eos"),
        decoder_start_token_id=options["decoder_start"],
        eos_token_id=options["eos"],
        pad_token_id=options["pad"],
    )
    outputs = []
    for row in rows:
        ids = torch.tensor([row])
        made = model.generate(ids, attention_mask=torch.ones_like(ids))
        outputs.append(made[0, 1:].tolist())  # without the start token
    return outputs


_RUN: Mapping[Kind, Any] = {
    "scores": _scores,
    "vectors": _vectors,
    "tokens": _tokens,
    "sequences": _sequences,
}
