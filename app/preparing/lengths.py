"""How long an input may be, from what the checkpoint's files say about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.folder import read_object

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
    "seq_length",
)
# Their positions count from the padding token's id on: the first of them are never used.
SHIFTED = frozenset(
    "roberta xlm-roberta xlm-roberta-xl roberta-prelayernorm camembert mpnet longformer "
    "data2vec-text ibert xmod luke mluke".split()
)
LONGEST_SANE = 1_000_000  # tokenizers say 1e30 when they do not know


def longest_input(folder: Path, config: Mapping[str, Any], asked: int | None) -> int:
    """In tokens, special ones included.

    `asked` may exceed what the tokenizer or sentence-transformers were set to, because those are
    choices, but never the positions that the model has. Raises CannotLoad.
    """
    positions = _positions(config)
    if asked is not None:
        if positions is not None and asked > positions:
            raise CannotLoad(f"max_tokens {asked} is more than the checkpoint's own {positions}")
        return asked
    known = [positions, *_chosen(folder)]
    lengths = [length for length in known if length is not None]
    if not lengths:
        raise CannotLoad("the checkpoint does not say how long an input may be: set max_tokens")
    return min(lengths)


def _positions(config: Mapping[str, Any]) -> int | None:
    for name in POSITIONS:
        length = config.get(name)
        if isinstance(length, int) and length > 0:
            if config.get("model_type") in SHIFTED:
                padding = config.get("pad_token_id")
                length -= (padding if isinstance(padding, int) else 1) + 1
            return length if length > 0 else None
    return None


def _chosen(folder: Path) -> list[int | None]:
    """What the tokenizer's and sentence-transformers' settings cut texts at."""
    asked = (
        read_object(folder, "tokenizer_config.json").get("model_max_length"),
        read_object(folder, "sentence_bert_config.json").get("max_seq_length"),
    )
    return [
        int(length)
        for length in asked
        if isinstance(length, int | float) and 0 < length < LONGEST_SANE
    ]
