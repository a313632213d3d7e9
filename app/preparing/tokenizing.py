"""The tokenizer as transformers itself would use it, in a form that needs no transformers."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.core.errors import CannotLoad
from app.preparing.folder import said_plainly
from app.runtimes.sentencepieces import CODE_END, CODE_START, FILE_NAME, Pieces

TOKENIZER = "tokenizer.json"


def load_tokenizer(work: Path) -> Any:
    """transformers' own, from a workspace."""
    from transformers import AutoTokenizer

    with said_plainly("loading the tokenizer"):
        return AutoTokenizer.from_pretrained(
            str(work), trust_remote_code=False, local_files_only=True
        )


def write_tokenizer(tokenizer: Any, folder: Path) -> str:
    """The name of the file in `folder`: tokenizer.json wherever there is such a form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        with said_plainly(f"writing {TOKENIZER}"):
            backend.save(str(folder / TOKENIZER))
        return TOKENIZER
    models = _models(tokenizer)
    if not models:
        raise CannotLoad(
            f"the checkpoint's tokenizer ({type(tokenizer).__name__}) has no form as {TOKENIZER} "
            "and is not made of SentencePiece models"
        )
    with said_plainly(f"writing {FILE_NAME}"):
        pieces = _pieces(tokenizer, [Path(model).name for model in models])
        for model in models:
            shutil.copyfile(model, folder / Path(model).name)
        (folder / FILE_NAME).write_bytes(msgspec.json.encode(pieces))
    return FILE_NAME


def _models(tokenizer: Any) -> Sequence[str]:
    """Paths of the source's SentencePiece model and the target's, as transformers names them."""
    for_each: Sequence[str] = getattr(tokenizer, "spm_files", ())  # Marian
    for_all: str = getattr(tokenizer, "spm_file", "")  # M2M100
    return for_each or (for_all, for_all) if for_each or for_all else ()


def _pieces(tokenizer: Any, models: Sequence[str]) -> Pieces:
    source = _in_order(tokenizer.get_vocab())
    target = source
    if getattr(tokenizer, "separate_vocabs", False):
        target = _in_order(tokenizer.target_encoder)
    unknown = tokenizer.unk_token_id
    around = tokenizer.build_inputs_with_special_tokens([unknown])
    place = around.index(unknown)
    return Pieces(
        source_model=models[0],
        target_model=models[1],
        source=source,
        target=target,
        head=around[:place],
        tail=around[place + 1 :],
        unknown=unknown,
        special={
            **{token: source.index(token) for token in tokenizer.all_special_tokens},
            **codes_of(source),
        },
    )


def codes_of(tokens: Sequence[str]) -> dict[str, int]:
    """The languages that a Marian of several targets is told by a code in the text."""
    return {
        token: number
        for number, token in enumerate(tokens)
        if token.startswith(CODE_START) and token.endswith(CODE_END)
    }


def _in_order(vocabulary: Mapping[str, int]) -> list[str]:
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise CannotLoad("the tokenizer's table does not number its tokens from 0 without a gap")
    return tokens
