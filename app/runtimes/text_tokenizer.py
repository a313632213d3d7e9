"""Which tokenizer a prepared folder's file is."""

from collections.abc import Mapping
from pathlib import Path

from app.core.errors import CannotLoad
from app.core.inference import TextTokenizer
from app.runtimes.sentencepieces import FILE_NAME, SentencePieceTokenizer
from app.runtimes.tokenizer import JsonTokenizer


def text_tokenizer(files: Mapping[str, str], max_tokens: int) -> TextTokenizer:
    """By the role `tokenizer`. Raises CannotLoad."""
    path = Path(files.get("tokenizer", ""))
    if not path.is_file():
        raise CannotLoad(
            f"an encoder-decoder needs its tokenizer: a tokenizer.json or a {FILE_NAME}"
        )
    if path.name == FILE_NAME:
        return SentencePieceTokenizer(path, max_tokens)
    return JsonTokenizer(str(path), max_tokens)
