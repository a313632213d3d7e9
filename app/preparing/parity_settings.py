"""How texts are generated for the comparison, on both sides."""

from collections.abc import Mapping
from typing import Any

from app.core.inference import Decoding

NEW_TOKENS = 32  # of a decoder's continuation: enough to see a fork, quick on two cores
SUMMARY_TOKENS = 40


def decoding_of(generation: Mapping[str, Any]) -> Decoding:
    """The checkpoint's own search, cut to SUMMARY_TOKENS new tokens.

    transformers' lengths count the start token, ours do not. The least length is at most half of
    the longest, so that texts may end before the cut.
    """
    longest = min(int(generation.get("max_length", SUMMARY_TOKENS + 1)) - 1, SUMMARY_TOKENS)
    least = min(int(generation.get("min_length", 0)) - 1, longest // 2)
    forced = generation.get("forced_bos_token_id")
    return Decoding(
        max_tokens=max(longest, 1),
        min_tokens=max(least, 0),
        beams=int(generation.get("num_beams", 1)),
        length_penalty=float(generation.get("length_penalty", 1.0)),
        no_repeat_ngram=int(generation.get("no_repeat_ngram_size", 0)),
        repetition_penalty=float(generation.get("repetition_penalty", 1.0)),
        early_stopping=bool(generation.get("early_stopping", False)),
        prefix=(forced,) if isinstance(forced, int) else (),
    )
