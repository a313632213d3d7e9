"""Finding a decoder's files: a folder with its IR, or a GGUF file, which OpenVINO GenAI converts.

What becomes of a GGUF file is kept, because reading the file itself takes twice as long. How much
memory the key-value cache may take is decided here too.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openvino_genai as genai
import structlog

from app.core.errors import CannotLoad
from app.runtimes.openvino_threads import UNPINNED

log = structlog.get_logger()

Loaded = TypeVar("Loaded")

CHUNK_TOKENS = 256  # of prompts in a step
LIBRARY_ERRORS = (RuntimeError, IndexError, ValueError)  # what it raises for a broken file
UNFINISHED = "unfinished-"
ABANDONED_AFTER_S = 3600
PREPARED_FILES = ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml")
NOISE = ("Exception from ", "Check ")  # lines of the library's errors that say where, not what

BLOCK_TOKENS = 32  # the CPU plugin's
SPARE_BLOCKS = 72  # the last block of each of 64 sequences is rarely full; and those of our own
SMALL_CACHE_SHARE = 0.3  # of fp32; measured
LEAST_CACHE_TOKENS = 256
DEFAULT_CACHE_MB = 128
MOST_UNASKED_CACHE_MB = 1024
UNKNOWN_CACHE = 40_000  # tokens, where nobody says what one takes: 1 GB for a 135M model, at most
FP32 = "fp32"
# A scale per token. The plugin's choice, one per channel of a block of tokens, is set anew as the
# block fills, so that a text would depend on where its prompt was cut.
KEYS_BY_TOKEN = {"KEY_CACHE_QUANT_MODE": "BY_TOKEN"}
# Where the processor has bf16, and tiles for it, the plugin would take that: with them a row of a
# product depends on how many rows there are, and a text on who shares its steps.
IN_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
OF_A_GGUF_FILE = {**IN_FLOAT32, **KEYS_BY_TOKEN}
PLAIN = {
    **IN_FLOAT32,
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
# The plugin would take groups of 32 activations, which cost a fifth more at 8 sequences than 128.
QUANTISED = {
    **IN_FLOAT32,
    "KV_CACHE_PRECISION": "u8",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
    **KEYS_BY_TOKEN,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """How the library is to run a model. cache_tokens: most that may be in the cache at once."""

    threads: int
    cache_tokens: int
    precision: str | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """Said in full, because a model file may carry properties of its own."""
        chosen: Mapping[str, Any] = QUANTISED
        if self.precision is None:
            chosen = OF_A_GGUF_FILE
        elif self.precision == FP32:
            chosen = PLAIN
        return {"INFERENCE_NUM_THREADS": self.threads, **UNPINNED, **chosen}


def cache_tokens(
    kv_bytes_per_token: int | None, precision: str | None, max_tokens: int, cache_mb: int | None
) -> int:
    """Tokens that fit in the cache. Unasked, it holds one full context if 1 GiB is enough for that.

    kv_bytes_per_token: of fp32; 8 bits with their scales take less than a third. The library takes
    the memory block by block as sequences need it, and keeps it.
    """
    if kv_bytes_per_token is None:
        return UNKNOWN_CACHE
    plain = precision == FP32
    bytes_per_token = kv_bytes_per_token * (1.0 if plain else SMALL_CACHE_SHARE)
    spare = SPARE_BLOCKS * BLOCK_TOKENS
    if cache_mb is not None:
        tokens = _tokens_in(cache_mb, bytes_per_token) - spare
    else:
        usual = _tokens_in(DEFAULT_CACHE_MB * (4 if plain else 1), bytes_per_token) - spare
        tokens = max(usual, min(max_tokens, _tokens_in(MOST_UNASKED_CACHE_MB, bytes_per_token)))
    if tokens < LEAST_CACHE_TOKENS:
        raise CannotLoad(
            f"the key-value cache has room for {max(tokens, 0)} tokens, at least "
            f"{LEAST_CACHE_TOKENS} are needed; raise cache_mb (one token takes "
            f"{bytes_per_token / 1024:.0f} KiB, and {spare} tokens are set aside)"
        )
    return tokens


def open_decoder(model: Path, prepared: Path | None, load: Callable[[Path], Loaded]) -> Loaded:
    """What `load` makes of a folder: `model` itself, or what became of a GGUF file.

    A GGUF file fills `prepared` for the next time; without one it is made for this time alone.
    Raises CannotLoad.
    """
    if model.is_dir():
        _check_folder(model)
        return load(model)
    if prepared is not None and prepared.is_dir():
        try:
            return load(prepared)
        except CannotLoad as error:
            log.warning("prepared_model_damaged", path=str(prepared), error=str(error))
            shutil.rmtree(prepared, ignore_errors=True)
    if prepared is not None:
        _prepare(model, prepared)
        if prepared.is_dir():
            return load(prepared)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED) as folder:
        return load(_convert(model, Path(folder)))  # what is mapped stays when the file is gone


def in_one_line(error: Exception) -> str:
    """What the library complains of, without its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(NOISE)]
    return " ".join(telling or lines) or type(error).__name__


def _check_folder(folder: Path) -> None:
    """A missing tokenizer would only be found by the first caller."""
    wanted = [*PREPARED_FILES, *(f"{Path(name).stem}.bin" for name in PREPARED_FILES)]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise CannotLoad(f"{folder} lacks {', '.join(missing)}")


def _convert(model: Path, folder: Path) -> Path:
    """A GGUF file in OpenVINO's form, in a new folder inside of `folder`.

    The library writes beside the file that it reads, hence the link.
    """
    draft = folder / "draft"
    draft.mkdir()
    link = draft / "model.gguf"
    link.symlink_to(model)
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    saving = {"enable_save_ov_model": True}
    try:
        genai.ContinuousBatchingPipeline(str(link), scheduler, "CPU", saving, saving)
    except LIBRARY_ERRORS as error:
        raise CannotLoad(f"OpenVINO GenAI cannot read {model}: {in_one_line(error)}") from error
    link.unlink()
    missing = [name for name in PREPARED_FILES if not (draft / name).is_file()]
    if missing:
        raise CannotLoad(f"OpenVINO GenAI did not write {', '.join(missing)} of {model}")
    return draft


def _prepare(model: Path, prepared: Path) -> None:
    """Fill the folder in one move; a store that cannot be written costs time, no more."""
    try:
        prepared.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(prepared.parent)
        with tempfile.TemporaryDirectory(dir=prepared.parent, prefix=UNFINISHED) as folder:
            _convert(model, Path(folder)).rename(prepared)
    except OSError as error:
        if not prepared.is_dir():  # another server may have been faster
            log.warning("model_not_prepared", path=str(prepared), error=str(error))


def _remove_abandoned(folder: Path) -> None:
    """What a worker that was killed while preparing left behind, once nobody can be at it."""
    for left in folder.glob(f"{UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


def _tokens_in(megabytes: int, bytes_per_token: float) -> int:
    return int(megabytes * 2**20 / bytes_per_token)
