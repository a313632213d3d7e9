"""What is measured between two sets of answers, and which figures pass. Pure arithmetic.

The bars are for trained weights, whose answers are far from even; random weights fail them easily.

- int8 encoders: one label in twenty may flip where two labels were nearly even; a probability may
  move by 0.25, which only texts in the balance do (real ones moved by up to 0.18 over 1,500 texts).
- Generated text may fork where two tokens are nearly even, and nothing behind a fork can be
  compared. token_agreement is therefore the share of tokens before the first difference. fp32 has
  no excuse for a fork in greedy decoding; int8 forks late (SmolLM2 with its real weights after a
  quarter of the text, at a perplexity 1.4 % higher), int4 earlier, and a broken artefact at once,
  which first_token_agreement shows. Beams are compared in the same way, with the words in common
  (token_overlap) beside it: two beams that change places fork early and say the same.
- tokenizer_agreement is the share of texts with the same token ids, and must be whole.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.core.checkpoint import Kind, Parity

Floats = NDArray[np.float32]
Row = Sequence[int]

AT_MOST = {"max_probability_difference"}  # every other figure must be at least its bar
BARS: Mapping[Kind, Mapping[str, Mapping[str, float]]] = {
    "scores": {
        "fp32": {
            "label_agreement": 0.99,
            "max_probability_difference": 0.01,
            "mean_cosine": 0.999,
        },
        "int8": {
            "label_agreement": 0.95,
            "max_probability_difference": 0.25,
            "mean_cosine": 0.98,
        },
    },
    "vectors": {
        "fp32": {"mean_cosine": 0.9995, "min_cosine": 0.999},
        "int8": {"mean_cosine": 0.98, "min_cosine": 0.95},
    },
    "tokens": {
        "fp32": {"token_agreement": 0.999, "first_token_agreement": 1.0},
        "int8": {"token_agreement": 0.2, "first_token_agreement": 0.75},
        "int4": {"token_agreement": 0.2, "first_token_agreement": 0.5},
    },
    "sequences": {
        "fp32": {"token_agreement": 0.9, "token_overlap": 0.95},
        "int8": {"token_agreement": 0.2, "token_overlap": 0.6},
    },
}


def judged(kind: Kind, precision: str, inputs: int, figures: Mapping[str, float]) -> Parity:
    """The figures beside their bars; what failed, in words with both numbers."""
    bar = {"tokenizer_agreement": 1.0, **BARS[kind][precision]}
    bar = {name: least for name, least in bar.items() if name in figures}
    return Parity(
        inputs=inputs,
        figures={name: round(value, 6) for name, value in figures.items()},
        bar=bar,
        failed=[
            words for name, limit in bar.items() if (words := _failure(name, figures[name], limit))
        ],
    )


def _failure(name: str, value: float, limit: float) -> str:
    words = name.replace("_", " ")
    if name in AT_MOST:
        return f"{words} is {value:.4f}, more than {limit:g}" if not value <= limit else ""
    return f"{words} is {value:.4f}, less than {limit:g}" if not value >= limit else ""


def compare_scores(ours: Floats, theirs: Floats, function: str) -> dict[str, float]:
    """ours, theirs: logits. One logit, and several that do not exclude each other, agree where
    they fall on the same side of one half."""
    first, second = (probabilities(logits, function) for logits in (ours, theirs))
    if function == "softmax":
        same = first.argmax(axis=1) == second.argmax(axis=1)
    else:
        same = (ours > 0) == (theirs > 0)
    figures = {
        "label_agreement": float(same.mean()),
        "max_probability_difference": float(np.abs(first - second).max()),
    }
    if (
        ours.shape[1] > 2
    ):  # of one number, or two that are opposites, it says no more than the label
        figures["mean_cosine"] = float(cosines(ours, theirs).mean())
    return figures


def probabilities(logits: Floats, function: str) -> Floats:
    """Single logits of a reranker that applies no function are compared as probabilities too."""
    if function == "softmax":
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Floats = grown / grown.sum(axis=1, keepdims=True)
        return shares
    each: Floats = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    return each


def compare_vectors(ours: Floats, theirs: Floats) -> dict[str, float]:
    found = cosines(ours, theirs)
    return {"mean_cosine": float(found.mean()), "min_cosine": float(found.min())}


def cosines(ours: Floats, theirs: Floats) -> Floats:
    """Row by row; 0 where a row is not made of finite numbers."""
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1) / np.maximum(lengths, 1e-12)
    finite: Floats = np.nan_to_num(products, posinf=0.0, neginf=0.0).astype(np.float32)
    return finite


def compare_tokens(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, float]:
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "token_agreement": _mean([_share_before_fork(a, b) for a, b in pairs]),
        "first_token_agreement": _mean([float(list(a[:1]) == list(b[:1])) for a, b in pairs]),
    }


def compare_sequences(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, float]:
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "token_agreement": _mean([_share_before_fork(a, b) for a, b in pairs]),
        "token_overlap": _mean([_overlap(a, b) for a, b in pairs]),
    }


def same_rows(ours: Sequence[Row], theirs: Sequence[Row]) -> float:
    return _mean([float(list(a) == list(b)) for a, b in zip(ours, theirs, strict=True)])


def _share_before_fork(ours: Row, theirs: Row) -> float:
    longer = max(len(ours), len(theirs))
    differing = (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    return next(differing, min(len(ours), len(theirs))) / longer if longer else 1.0


def _overlap(ours: Row, theirs: Row) -> float:
    """Tokens in common, counted, as a share of the longer text."""
    longer = max(len(ours), len(theirs))
    return (Counter(ours) & Counter(theirs)).total() / longer if longer else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
