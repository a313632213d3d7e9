"""A BART with random weights, small, whose texts end now and then and repeat themselves."""

import contextlib
import io
import json
from pathlib import Path

import torch
from ctranslate2.converters import TransformersConverter
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BartConfig, BartForConditionalGeneration, AutoTokenizer

START, PAD, END = 0, 1, 2
FIRST_BYTE = 4
VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
    "bos_token_id": START,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": END,
}
# What the converter reads and configurations of transformers 5 do not hold.
READ_BY_CONVERTER = {
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
}


def save(folder: Path) -> None:
    """The checkpoint in `folder`, its float32 and int8 conversions in `fp32` and `int8` there."""
    torch.manual_seed(0)
    config = BartConfig.from_dict(SIZES)
    model = BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.final_logits_bias[0, END] = 3.0
        model.final_logits_bias[0, [START, PAD, 3, len(VOCABULARY) - 1]] = -100.0
    model.save_pretrained(folder)
    words = {token: index for index, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    saved = folder / "config.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | READ_BY_CONVERTER))
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        for name, quantization in (("fp32", "float32"), ("int8", "int8")):
            TransformersConverter(str(folder)).convert(
                str(folder / name), quantization=quantization
            )
