"""A tokenizer whose counts can be read off the text."""

from collections.abc import Sequence

START, END = 1, 2


class MarkedWords:
    """One token per word, between a start and an end mark."""

    def __init__(self, max_tokens: int = 16) -> None:
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[START, *(10 + len(word) for word in text.split()), END] for text in texts]
