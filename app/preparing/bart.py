"""Makes a folder that `openvino_seq2seq` serves from a BART checkpoint, without torch.

The folder holds encoder.xml and decoder.xml with their weights, and words.npy: the input vectors
of all tokens, which the runtime maps into memory and reads row by row.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from app.core.checkpoint import Precision
from app.core.errors import CannotLoad
from app.preparing import bart_graph

Array = NDArray[Any]

WORDS = "words.npy"
PREFIX = "model."
OUTPUT_LAYER = "lm_head.weight"
SHARED = "model.shared.weight"


def prepare_bart(source: Path, out: Path, precision: Precision) -> dict[str, Any]:
    """Fill the folder `out` from the checkpoint in the folder `source`.

    precision: int8 or fp32. Answers what the runtime must be told besides its files
    (`runtime_options`). Raises CannotLoad for anything but BART in its published form.
    """
    if precision not in ("int8", "fp32"):
        raise CannotLoad(f"precision {precision!r} is not made for BART: int8 and fp32 are")
    config = _config(source)
    tensors = _Tensors(source)
    is_int8 = precision == "int8"
    shapes = {
        side: bart_graph.Shape(
            heads=config[f"{side}_attention_heads"],
            layers=config[f"{side}_layers"],
            activation=config["activation_function"],
            quantised=is_int8,
        )
        for side in ("encoder", "decoder")
    }
    out.mkdir(parents=True, exist_ok=True)
    written, read = shapes["decoder"], shapes["encoder"]
    encoder = bart_graph.encoder(tensors.get, read, written.layers, written.heads)
    ov.save_model(encoder, out / "encoder.xml", compress_to_fp16=False)
    del encoder  # frees its weights before the next graph needs as much
    decoder = bart_graph.decoder(tensors.get, written)
    ov.save_model(decoder, out / "decoder.xml", compress_to_fp16=False)
    words = tensors.get(SHARED)
    if config.get("scale_embedding", False):
        words = words * np.float32(words.shape[1] ** 0.5)
    np.save(out / WORDS, words.astype(np.float16 if is_int8 else np.float32))
    return {
        "max_tokens": config["max_position_embeddings"],
        "decoder_start": config["decoder_start_token_id"],
        "eos": config["eos_token_id"],
        "pad": config["pad_token_id"],
        "forced_eos": config.get("forced_eos_token_id"),
        "precision": precision,
    }


class _Tensors:
    """A checkpoint's tensors as float32, by the names that BartForConditionalGeneration has."""

    def __init__(self, source: Path) -> None:
        files = sorted(source.glob("*.safetensors"))
        if not files:
            raise CannotLoad(f"{source} holds no .safetensors file")
        self._file_of: dict[str, Path] = {}
        try:
            for file in files:
                with safe_open(file, framework="numpy") as opened:
                    self._file_of |= dict.fromkeys(opened.keys(), file)
        except (SafetensorError, OSError) as error:
            raise CannotLoad(f"cannot read {file}: {error}") from error

    def get(self, name: str) -> Array:
        if name == OUTPUT_LAYER and name not in self._file_of:
            name = SHARED
        if name not in self._file_of:
            raise CannotLoad(f"the checkpoint has no tensor {name!r}")
        try:
            with safe_open(self._file_of[name], framework="numpy") as opened:
                tensor: Array = opened.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise CannotLoad(f"cannot read tensor {name!r} as numbers: {error}") from error
        return tensor.astype(np.float32)


def _config(source: Path) -> Mapping[str, Any]:
    """config.json, with the token ids of generation_config.json, which win as in transformers."""
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text("utf-8"))
        generation = source / "generation_config.json"
        if generation.is_file():
            said: dict[str, Any] = json.loads(generation.read_text("utf-8"))
            config |= {name: value for name, value in said.items() if name.endswith("token_id")}
    except (OSError, ValueError) as error:
        raise CannotLoad(f"cannot read the configuration in {source}: {error}") from error
    _refuse_relatives(config)
    return config


def _refuse_relatives(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != "bart":
        raise CannotLoad(f"model_type {kind!r} is not made for openvino_seq2seq: 'bart' is")
    if config.get("normalize_before", False) or config.get("add_final_layer_norm", False):
        raise CannotLoad("a BART that normalises before its layers is not supported")
    activation = config.get("activation_function")
    if activation not in bart_graph.ACTIVATIONS:
        known = ", ".join(sorted(bart_graph.ACTIVATIONS))
        raise CannotLoad(f"activation_function {activation!r} is not supported; {known} are")
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        if not isinstance(config.get(name), int):
            raise CannotLoad(f"{name} must be one token id, not {config.get(name)!r}")
