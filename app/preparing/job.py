"""The prepare step's job. Light: imports no library."""

from typing import Literal

from msgspec import Struct

from app.core.checkpoint import Kind, Precision

Format = Literal["safetensors", "pickle", "openvino", "onnx", "ctranslate2", "gguf"]


class PrepareJob(Struct, frozen=True):
    """One checkpoint to make ready, for `python -m app.preparing`; its result is the Manifest.

    source_folder: the checkpoint as its publisher laid it out; never written to. out_folder: empty;
    manifest.json is written into it last. task: what it will be used for (`classify`, `rerank`...).
    format: what the weights come in. max_tokens: a longest input; None: the checkpoint's own.
    source: where it came from, for people to read.
    """

    source_folder: str
    out_folder: str
    kind: Kind
    task: str
    runtime: str
    format: Format
    precision: Precision
    max_tokens: int | None = None
    threads: int = 1
    source: str = ""
