"""tokenizer.json as transformers itself would use it, made where the checkpoint has none."""

from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.folder import said_plainly

TOKENIZER = "tokenizer.json"


def load_tokenizer(work: Path) -> Any:
    """transformers' own, from a workspace."""
    from transformers import AutoTokenizer

    with said_plainly("loading the tokenizer"):
        return AutoTokenizer.from_pretrained(
            str(work), trust_remote_code=False, local_files_only=True
        )


def write_tokenizer(tokenizer: Any, folder: Path) -> str:
    """The name of the file in `folder`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CannotLoad(
            f"the checkpoint's tokenizer ({type(tokenizer).__name__}) has no form as tokenizer.json"
        )
    with said_plainly("writing tokenizer.json"):
        backend.save(str(folder / TOKENIZER))
    return TOKENIZER
