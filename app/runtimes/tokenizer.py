"""Tokenizers in Hugging Face's `tokenizer.json` format."""

from collections.abc import Sequence

from tokenizers import Tokenizer as HfTokenizer


class JsonTokenizer:
    """Encodes with the file's own rules, but never cuts or pads: the file's settings for both are
    switched off, because rows are cut by tasks and padded per batch."""

    def __init__(self, path: str, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = HfTokenizer.from_file(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
