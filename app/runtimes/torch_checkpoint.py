"""Reads a checkpoint's folder with transformers: local files, safetensors, no code out of it.

A model is served only if every weight of its class is in the checkpoint. transformers itself fills
what is missing with random numbers and says so in a warning: such a classifier answers, and its
answers mean nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.core.errors import CannotLoad
from app.core.inference import Tokenizer
from app.runtimes.text_tokenizer import text_tokenizer
from app.runtimes.torch_device import Placement

# What transformers raises for a folder that it cannot read.
LIBRARY_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)
LOCAL = {"local_files_only": True, "trust_remote_code": False}
NAMES_SHOWN = 3


def load_model(
    folder: Path, kind_of_model: Any, placement: Placement, *, unused: tuple[str, ...] = ()
) -> Any:
    """The checkpoint as one of transformers' `AutoModel...` classes, ready to compute.

    unused: beginnings of names of weights that this use of the model does without. Raises
    CannotLoad in one line.
    """
    if not any(folder.glob("*.safetensors")):
        raise CannotLoad(f"{folder} has no *.safetensors; weights in another form are not read")
    transformers.logging.set_verbosity_error()  # what matters of its warnings is an error here
    transformers.logging.disable_progress_bar()
    try:
        model, report = kind_of_model.from_pretrained(
            folder,
            **LOCAL,
            use_safetensors=True,
            dtype=placement.dtype,
            output_loading_info=True,
        )
        missing = sorted(k for k in report["missing_keys"] if not k.startswith(unused))
        if missing:
            raise CannotLoad(
                f"{folder} does not hold all weights of {type(model).__name__}: "
                f"{len(missing)} missing, such as {', '.join(missing[:NAMES_SHOWN])}"
            )
        return model.to(placement.device).eval()
    except LIBRARY_ERRORS as error:
        raise CannotLoad(f"transformers cannot load {folder}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """transformers' messages have paragraphs of advice; the first line says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class CheckpointTokenizer:
    """The checkpoint's tokenizer as transformers builds it, also where it has no tokenizer.json.

    adds_special_tokens: whether rows get the tokens that the model expects around a text; a
    prompt to be continued is taken as it stands.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, *, adds_special_tokens: bool) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._adds_special_tokens = adds_special_tokens

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, never cut or padded."""
        if not texts:
            return []
        rows: list[list[int]] = self._tokenizer(
            list(texts),
            add_special_tokens=self._adds_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return rows

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens, spaces as the tokens say."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def row_tokenizer(files: Mapping[str, str], max_tokens: int) -> Tokenizer:
    """For rows of encoders and encoder-decoders, special tokens included. Raises CannotLoad."""
    path = _tokenizer_file(files)
    if path is None:
        tokenizer = _from_folder(Path(files["model"]))
        return CheckpointTokenizer(tokenizer, max_tokens, adds_special_tokens=True)
    return text_tokenizer({"tokenizer": str(path)}, max_tokens)


def prompt_tokenizer(files: Mapping[str, str], max_tokens: int) -> CheckpointTokenizer:
    """For prompts and their continuations. Raises CannotLoad."""
    path = _tokenizer_file(files)
    try:
        tokenizer = (
            _from_folder(Path(files["model"]))
            if path is None
            else PreTrainedTokenizerFast(tokenizer_file=str(path))
        )
    except CannotLoad:
        raise
    except Exception as error:  # the library raises no narrower type
        raise CannotLoad(f"cannot read {path}: {first_line(error)}") from error
    return CheckpointTokenizer(tokenizer, max_tokens, adds_special_tokens=False)


def _tokenizer_file(files: Mapping[str, str]) -> Path | None:
    if "tokenizer" in files:
        return Path(files["tokenizer"])
    beside = Path(files["model"]) / "tokenizer.json"
    return beside if beside.is_file() else None


def _from_folder(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        # Without a single file of a tokenizer transformers makes one that knows no word.
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            return tokenizer
    except LIBRARY_ERRORS as error:
        raise CannotLoad(f"no tokenizer in {folder}: {first_line(error)}") from error
    raise CannotLoad(f"{folder} has no file of a tokenizer")
