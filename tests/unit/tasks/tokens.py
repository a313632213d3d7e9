"""Tokenizers whose counts can be read off the text."""

from collections.abc import Mapping, Sequence

START, END = 1, 2


class MarkedWords:
    """One token per word, between a start and an end mark."""

    def __init__(self, max_tokens: int = 16) -> None:
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[START, *(10 + len(word) for word in text.split()), END] for text in texts]


class SpelledWords(MarkedWords):
    """The same with a number for each word, so that tokens can be read back. The marks are
    `front`, before every text, and `back`, after it; special tokens are numbered below 100.
    """

    def __init__(
        self,
        max_tokens: int = 16,
        front: Sequence[int] = (START,),
        back: Sequence[int] = (END,),
        special: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(max_tokens)
        self._front, self._back, self._special = list(front), list(back), dict(special or {})
        self._words: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            [*self._front, *(self._number(word) for word in text.split()), *self._back]
            for text in texts
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(self._words[number - 100] for number in token_ids if number >= 100)

    def special_tokens(self) -> Mapping[str, int]:
        return self._special

    def _number(self, word: str) -> int:
        if word in self._special:
            return self._special[word]
        if word not in self._words:
            self._words.append(word)
        return 100 + self._words.index(word)
