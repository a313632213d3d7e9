"""A decoder's tokenizer as OpenVINO GenAI builds it from the model's own files."""

from collections.abc import Sequence
from typing import Any

from app.core.errors import InvalidRequest
from app.runtimes.openvino_paged_grammar import Grammars, Matcher

NEVER_CUT = 2**31 - 1
NO_TOKEN = -1
MARKS = (b"<", b"["), (b">", b"]")  # how special tokens begin and end


class GenAiTokenizer:
    """is_own: it is the publisher's own in full, so what that puts in front of a text (often
    nothing) comes in front. One that was rebuilt from a GGUF file puts nothing there, and cuts at
    the checkpoint's own context, which is never less than `max_tokens`.

    vocabulary: ids that the model has logits for; ends: tokens that end a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int,
        *,
        is_own: bool,
        vocabulary: int,
        ends: Sequence[int],
    ) -> None:
        self.max_tokens = max_tokens
        self.counts_fully = is_own
        self.vocabulary = vocabulary
        self._tokenizer = tokenizer
        self._is_own = is_own
        self._ends = tuple(ends)
        self._grammars: Grammars | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [self._ids(text, with_marks=self._is_own) for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids))
        return text

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The same for several: 32 rows take 1.3 times as long as one."""
        texts: list[str] = self._tokenizer.decode([list(row) for row in rows])
        return texts

    def check_schema(self, schema: str) -> None:
        """Raises InvalidRequest for a JSON schema that is wrong, unknown in part, or too large."""
        self.matcher(schema)

    def matcher(self, schema: str) -> Matcher:
        """What may be written by the schema, before the first token. Raises InvalidRequest."""
        if self._grammars is None:
            self._grammars = self._new_grammars()
        return self._grammars.start(schema)

    def _new_grammars(self) -> Grammars:
        if not self._ends:
            raise InvalidRequest("a JSON schema needs a model that can end a text; this has no end")
        words: dict[bytes, int] = self._tokenizer.get_vocab()
        tokens = [b""] * self.vocabulary
        for word, token in words.items():
            if token < self.vocabulary:
                tokens[token] = word
        special = [at for at, word in enumerate(tokens) if self._is_special(at, word)]
        return Grammars(
            tokens,
            sorted({*special, *self._ends}),
            self._ends,
            self.vocabulary,
            lambda text: self._ids(text, with_marks=False),
        )

    def _is_special(self, token: int, word: bytes) -> bool:
        begins, ends = MARKS
        looks_so = len(word) > 2 and word.startswith(begins) and word.endswith(ends)
        return looks_so and not self.decode([token])

    def _ids(self, text: str, *, with_marks: bool) -> list[int]:
        encoded = self._tokenizer.encode(text, add_special_tokens=with_marks, max_length=NEVER_CUT)
        ids: list[int] = encoded.input_ids.data[0].tolist()
        return ids
