"""Tokenizers in Hugging Face's `tokenizer.json` format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Encoding
from tokenizers import Tokenizer as HfTokenizer

from app.core.errors import CannotLoad
from app.core.inference import EncodedPair, Pair

_USUAL_PADDING = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>")
# What transformers' `clean_up_tokenization_spaces` closes, in its order.
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class JsonTokenizer:
    """Encodes with the file's own rules, but never cuts or pads: the file's settings for both are
    switched off, because rows are cut by tasks and padded per batch.

    pad_id: what fills a row up; 0 where the file names no such token.
    A `tokenizer_config.json` beside the file says how text is made of tokens.
    """

    def __init__(self, path: str, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        try:
            self._tokenizer = HfTokenizer.from_file(path)
        except Exception as error:  # the library raises Exception itself
            raise CannotLoad(f"{path} is no tokenizer: {error}") from error
        self.pad_id = _padding(self._tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._closes_spaces = _closes_spaces(Path(path).with_name("tokenizer_config.json"))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Each pair as one row, with the special tokens that the file puts between and around."""
        return [_pair(encoding) for encoding in self._tokenizer.encode_batch_fast(list(pairs))]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        if self._closes_spaces:
            for spaced in _SPACED:
                text = text.replace(spaced, spaced.strip())
        return text

    def special_tokens(self) -> Mapping[str, int]:
        """Special tokens, languages among them, by their text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if token.special}


def _closes_spaces(path: Path) -> bool:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("clean_up_tokenization_spaces") is True


def _padding(tokenizer: HfTokenizer) -> int:
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in _USUAL_PADDING)
    return next((token_id for token_id in known if token_id is not None), 0)


def _pair(encoding: Encoding) -> EncodedPair:
    second = [at for at, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    length = len(encoding.ids)
    start, end = (second[0], second[-1] + 1) if second else (length, length)
    types = encoding.type_ids
    return EncodedPair(encoding.ids, start, end, Pair(types.index(1) if 1 in types else length))
