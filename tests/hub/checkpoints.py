"""Checkpoints in the hub's layout: true configurations and tokenizers, random weights.

`full_*` has the published sizes; `tiny_*` has fewer, narrower layers, the same vocabulary and
number of positions. Every builder fills `folder` and returns it. `overrides` are fields of
config.json; None takes a field away. The files are those of the publishers' repositories.
"""

import gzip
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers

Weights = Literal["safetensors", "sharded", "pickle"]
Config = Mapping[str, Any]

DATA = Path(__file__).parent / "data"
MINILM_TOKENIZER = Path("app/models/assets/all-MiniLM-L6-v2/tokenizer.json")
ROBERTA_SPECIAL = {
    0: "<s>",
    1: "<pad>",
    2: "</s>",
    3: "<unk>",
    50261: "madeupword0000",
    50262: "madeupword0001",
    50263: "madeupword0002",
    50264: "<mask>",
}
SEED = 20
SHARD = "4MB"

ROBERTA: Config = {
    "architectures": ["RobertaForSequenceClassification"],
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
    "label2id": {"negative": 0, "neutral": 1, "positive": 2},
    "problem_type": None,
}
GPT2: Config = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "vocab_size": 50257,
    "n_ctx": 1024,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "layer_norm_epsilon": 1e-05,
    "initializer_range": 0.02,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
GPT2_GENERATION: Config = {
    "_from_model_config": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}
BART_GENERATION: Config = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "pad_token_id": 1,
}
_BART_SEARCH = ("early_stopping", "length_penalty", "max_length", "min_length", "num_beams")
BART: Config = {
    **{name: value for name, value in BART_GENERATION.items() if not name.startswith("_")},
    "architectures": ["BartForConditionalGeneration"],
    "model_type": "bart",
    "activation_function": "gelu",
    "add_final_layer_norm": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "vocab_size": 50264,
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "scale_embedding": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "force_bos_token_to_be_generated": True,
    "task_specific_params": {
        "summarization": {
            "no_repeat_ngram_size": 3,
            **{name: BART_GENERATION[name] for name in _BART_SEARCH},
        }
    },
}
MINILM: Config = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
CROSS_ENCODER: Config = {
    **MINILM,
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
}

# Wider than the published spread: with few layers, texts would otherwise hardly differ.
TINY_ROBERTA: Config = {
    **ROBERTA,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.2,
}
TINY_GPT2: Config = {**GPT2, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
TINY_BART: Config = {
    **BART,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "init_std": 0.2,
}
_TINY_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.2,
}
TINY_MINILM: Config = {**MINILM, **_TINY_BERT}
TINY_CROSS_ENCODER: Config = {**CROSS_ENCODER, **_TINY_BERT}


def full_roberta(
    folder: Path,
    *,
    weights: Weights = "safetensors",
    tokenizer_json: bool = False,
    **overrides: Any,
) -> Path:
    """cardiffnlp/twitter-roberta-base-sentiment-latest: its repository has no tokenizer.json."""
    config = write_config(folder, ROBERTA, overrides)
    write_weights(folder, "AutoModelForSequenceClassification", config, weights)
    write_tokenizer(folder, "roberta", tokenizer_json=tokenizer_json)
    return folder


def full_gpt2(
    folder: Path, *, weights: Weights = "safetensors", tokenizer_json: bool = True, **overrides: Any
) -> Path:
    """openai-community/gpt2."""
    config = write_config(folder, GPT2, overrides)
    write_json(folder / "generation_config.json", GPT2_GENERATION)
    write_weights(folder, "AutoModelForCausalLM", config, weights)
    write_tokenizer(folder, "gpt2", tokenizer_json=tokenizer_json)
    return folder


def full_bart(
    folder: Path, *, weights: Weights = "safetensors", tokenizer_json: bool = True, **overrides: Any
) -> Path:
    """facebook/bart-large-cnn. Fields of generation are overridden in both of its files."""
    config = write_config(folder, BART, overrides)
    generation = {**BART_GENERATION, **{k: v for k, v in overrides.items() if k in BART_GENERATION}}
    write_json(folder / "generation_config.json", generation)
    write_weights(folder, "AutoModelForSeq2SeqLM", config, weights)
    write_tokenizer(folder, "bart", tokenizer_json=tokenizer_json)
    return folder


def full_minilm(
    folder: Path, *, weights: Weights = "safetensors", pooling: str = "mean", **overrides: Any
) -> Path:
    """sentence-transformers/all-MiniLM-L6-v2. pooling: the mode that 1_Pooling names."""
    config = write_config(folder, MINILM, overrides)
    write_weights(folder, "AutoModel", config, weights)
    write_bert_tokenizer(folder)
    stages = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(stages)
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False}
    )
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": config["hidden_size"],
            **{f"pooling_mode_{mode}": mode.startswith(pooling) for mode in modes},
        },
    )
    return folder


def full_cross_encoder(folder: Path, *, weights: Weights = "safetensors", **overrides: Any) -> Path:
    """cross-encoder/ms-marco-MiniLM-L6-v2: one logit for a query and a passage."""
    config = write_config(folder, CROSS_ENCODER, overrides)
    write_weights(folder, "AutoModelForSequenceClassification", config, weights)
    write_bert_tokenizer(folder)
    return folder


def tiny_roberta(folder: Path, **options: Any) -> Path:
    return full_roberta(folder, **{**TINY_ROBERTA, **options})


def tiny_gpt2(folder: Path, **options: Any) -> Path:
    return full_gpt2(folder, **{**TINY_GPT2, **options})


def tiny_bart(folder: Path, **options: Any) -> Path:
    return full_bart(folder, **{**TINY_BART, **options})


def tiny_minilm(folder: Path, **options: Any) -> Path:
    return full_minilm(folder, **{**TINY_MINILM, **options})


def tiny_cross_encoder(folder: Path, **options: Any) -> Path:
    return full_cross_encoder(folder, **{**TINY_CROSS_ENCODER, **options})


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def write_config(folder: Path, config: Config, overrides: Config) -> Config:
    """What was written, without the fields whose value is None."""
    merged = {name: value for name, value in {**config, **overrides}.items() if value is not None}
    write_json(folder / "config.json", merged)
    return merged


def write_weights(folder: Path, auto_class: str, config: Config, weights: Weights) -> None:
    """Random, and the same at every call."""
    torch.manual_seed(SEED)
    known = transformers.AutoConfig.for_model(**config)
    model = getattr(transformers, auto_class).from_config(known)
    if weights == "pickle":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return
    draft = folder / "draft"
    model.save_pretrained(draft, max_shard_size=SHARD if weights == "sharded" else "20GB")
    for path in draft.glob("model*.safetensors*"):  # its config.json is not the publishers'
        path.rename(folder / path.name)
    shutil.rmtree(draft)


def write_tokenizer(
    folder: Path, family: Literal["gpt2", "roberta", "bart"], *, tokenizer_json: bool = True
) -> None:
    """vocab.json and merges.txt, and what stands beside them in the family's repositories."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = gpt2_vocabulary() if family == "gpt2" else roberta_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(merges(), encoding="utf-8")
    longest = {"gpt2": 1024, "bart": 1024}.get(family)
    if longest is not None:
        write_json(folder / "tokenizer_config.json", {"model_max_length": longest})
    if tokenizer_json:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_bert_tokenizer(folder: Path) -> None:
    shutil.copyfile(MINILM_TOKENIZER, folder / "tokenizer.json")
    write_json(
        folder / "tokenizer_config.json",
        {"model_max_length": 512, "tokenizer_class": "BertTokenizer", "do_lower_case": True},
    )


@cache
def merges() -> str:
    return gzip.decompress((DATA / "gpt2.merges.txt.gz").read_bytes()).decode()


@cache
def gpt2_tokens() -> tuple[str, ...]:
    """In the order of their ids: bytes, merges, one special token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [*printable, *range(256, 512 - len(printable))]
    lines = merges().splitlines()[1:]
    return (*map(chr, alphabet), *(line.replace(" ", "") for line in lines), "<|endoftext|>")


def gpt2_vocabulary() -> dict[str, int]:
    return {token: number for number, token in enumerate(gpt2_tokens())}


def roberta_vocabulary() -> dict[str, int]:
    """Of RoBERTa and BART."""
    ids = np.frombuffer(gzip.decompress((DATA / "roberta.ids.gz").read_bytes()), "<u2")
    tokens = gpt2_tokens()
    return {
        ROBERTA_SPECIAL.get(number) or tokens[same]: number
        for number, same in enumerate(ids.tolist())
    }
