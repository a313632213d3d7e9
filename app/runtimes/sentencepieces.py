"""Tokenizers of SentencePiece models whose pieces have ids in a table of their own.

Marian has one model for each of its languages, M2M100 one for all. `sentencepieces.json`, which the
prepare step writes, names the models and holds the table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import sentencepiece

from app.core.errors import CannotLoad

FILE_NAME = "sentencepieces.json"
CODE_START, CODE_END = ">>", "<<"  # around the language that a Marian of several translates into


class Pieces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """source_model, target_model: paths, relative to the file's folder. source, target: tokens by
    id, for reading and for writing. head, tail: ids around every row. special: tokens that are no
    text, by id.
    """

    source_model: str
    target_model: str
    source: list[str]
    target: list[str]
    head: list[int]
    tail: list[int]
    unknown: int
    special: dict[str, int]


class SentencePieceTokenizer:
    """Reads with the model of the source, writes with that of the target.

    A text is text: what looks like a special token in it is taken apart like everything else,
    except a language code at its start (`>>fra<< ...`), which Marian's users put there.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        try:
            pieces = msgspec.json.decode(path.read_bytes(), type=Pieces)
            self._reading = _open(path.parent / pieces.source_model)
            self._writing = _open(path.parent / pieces.target_model)
        except (OSError, RuntimeError, msgspec.DecodeError) as error:
            raise CannotLoad(f"{path} is no tokenizer: {error}") from error
        self._pieces = pieces
        self._ids = {token: number for number, token in enumerate(pieces.source)}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with special tokens."""
        return [[*self._pieces.head, *self._read(text), *self._pieces.tail] for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, special ones left out."""
        tokens = (self._pieces.target[number] for number in token_ids)
        words = [token for token in tokens if token not in self._pieces.special]
        text: str = self._writing.decode_pieces(words)
        return text.strip()

    def special_tokens(self) -> Mapping[str, int]:
        """Special tokens, languages among them, by their text."""
        return self._pieces.special

    def _read(self, text: str) -> list[int]:
        code, end, rest = text.partition(CODE_END)
        code_id = self._pieces.special.get(code + end) if code.startswith(CODE_START) else None
        said = text if code_id is None else rest
        ids = [
            self._ids.get(piece, self._pieces.unknown)
            for piece in self._reading.encode(said, out_type=str)
        ]
        return ids if code_id is None else [code_id, *ids]


def _open(path: Path) -> sentencepiece.SentencePieceProcessor:
    model = sentencepiece.SentencePieceProcessor()
    model.Load(str(path))
    return model
