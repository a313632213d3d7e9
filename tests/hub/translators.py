"""Translators and T5 in the hub's layout: their true configurations, few and narrow layers, random
weights, and SentencePiece models trained on a few sentences.

As in their publishers' repositories none of Marian and M2M100 has a tokenizer.json.
"""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import MBart50Tokenizer, NllbTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from app.preparing.parity_inputs import DOCUMENTS, PROMPTS, TEXTS
from tests.hub.checkpoints import Config, write_config, write_json, write_weights

PIECES = 400
SPREAD = 0.2  # of random weights; wider than published, so that texts differ with few layers
_SHALLOW = {"encoder_layers": 2, "decoder_layers": 2}
_NARROW = {
    **_SHALLOW,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "init_std": SPREAD,
}

MARIAN: Config = {
    "architectures": ["MarianMTModel"],
    "model_type": "marian",
    "activation_function": "swish",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "is_encoder_decoder": True,
    "max_length": 512,
    "max_position_embeddings": 512,
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 4,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
    **_NARROW,
}
M2M100: Config = {
    "architectures": ["M2M100ForConditionalGeneration"],
    "model_type": "m2m_100",
    "activation_function": "relu",
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "is_encoder_decoder": True,
    "max_length": 200,
    "max_position_embeddings": 1024,
    "num_beams": 5,
    "pad_token_id": 1,
    "scale_embedding": True,
    **_NARROW,
    "init_std": 2 * SPREAD,  # else most of what it writes are names of languages
}
MBART: Config = {
    "architectures": ["MBartForConditionalGeneration"],
    "model_type": "mbart",
    "activation_function": "relu",
    "add_bias_logits": False,
    "add_final_layer_norm": True,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "is_encoder_decoder": True,
    "max_length": 200,
    "max_position_embeddings": 1024,
    "normalize_before": True,
    "normalize_embedding": True,
    "num_beams": 5,
    "pad_token_id": 1,
    "scale_embedding": True,
    "static_position_embeddings": False,
    "tokenizer_class": "MBart50Tokenizer",
    **_NARROW,
    "init_std": 2 * SPREAD,
}
T5: Config = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_ff": 128,
    "d_kv": 16,
    "d_model": 64,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "n_positions": 512,
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {
        "summarization": {
            "early_stopping": True,
            "length_penalty": 2.0,
            "max_length": 200,
            "min_length": 30,
            "no_repeat_ngram_size": 3,
            "num_beams": 4,
            "prefix": "summarize: ",
        },
        "translation_en_to_de": {
            "early_stopping": True,
            "max_length": 300,
            "num_beams": 4,
            "prefix": "translate English to German: ",
        },
    },
}


def tiny_marian(folder: Path, *, languages: tuple[str, ...] = (), **overrides: Any) -> Path:
    """Helsinki-NLP/opus-mt-en-de; with languages, opus-mt-en-mul, whose sources begin with one."""
    folder.mkdir(parents=True, exist_ok=True)
    source, target = pieces(), pieces(count=PIECES - 50)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    tokens = dict.fromkeys(["</s>", "<unk>", *_words(target), *_words(source)])
    codes = [f">>{language}<<" for language in languages]
    vocabulary = {token: n for n, token in enumerate([*tokens, *codes, "<pad>"])}
    write_json(folder / "vocab.json", vocabulary)
    write_json(
        folder / "tokenizer_config.json",
        {"source_lang": "en", "target_lang": "de", "model_max_length": 512},
    )
    pad = vocabulary["<pad>"]
    ids = {
        "bad_words_ids": [[pad]],
        "decoder_start_token_id": pad,
        "decoder_vocab_size": pad + 1,
        "pad_token_id": pad,
        "vocab_size": pad + 1,
    }
    config = write_config(folder, {**MARIAN, **ids}, overrides)
    names = ("bos_token_id", "eos_token_id", "forced_eos_token_id", "max_length", "num_beams")
    generation = {name: config[name] for name in (*names, *ids) if "vocab" not in name}
    write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, **generation} | _RENORMALIZED,
    )
    write_weights(folder, "AutoModelForSeq2SeqLM", config, "safetensors")
    return folder


_RENORMALIZED = {"renormalize_logits": True}


def tiny_m2m100(folder: Path, **overrides: Any) -> Path:
    """facebook/m2m100_418M: a token of its own for every language, behind the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    model = pieces(kind="bpe")
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    tokens = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *_words(model)])
    write_json(folder / "vocab.json", {token: n for n, token in enumerate(tokens)})
    write_json(
        folder / "tokenizer_config.json",
        {"model_max_length": 1024, "tokenizer_class": "M2M100Tokenizer", "src_lang": "en"},
    )
    languages = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    write_json(
        folder / "special_tokens_map.json",
        {
            **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "</s>"},
            "unk_token": "<unk>",
            "additional_special_tokens": [f"__{language}__" for language in languages],
        },
    )
    size = len(tokens) + len(languages) + 8  # and room that the publisher left
    config = write_config(folder, {**M2M100, "vocab_size": size}, overrides)
    names = (
        *("bos_token_id", "decoder_start_token_id", "early_stopping", "eos_token_id"),
        *("max_length", "num_beams", "pad_token_id"),
    )
    write_json(folder / "generation_config.json", {name: config[name] for name in names})
    write_weights(folder, "AutoModelForSeq2SeqLM", config, "safetensors")
    return folder


def tiny_nllb(folder: Path, **overrides: Any) -> Path:
    """facebook/nllb-200-distilled-600M: M2M100's architecture, a tokenizer.json, other codes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(
        pieces(kind="bpe", special=("<unk>", "<s>", "</s>"))
    )
    special = {
        **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
        **{"mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "additional_special_tokens": ["deu_Latn", "eng_Latn", "fra_Latn"],  # of 202
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "NllbTokenizer", "model_max_length": 1024, **special},
    )
    made = NllbTokenizer.from_pretrained(folder, src_lang="eng_Latn")
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config: Config = {**M2M100, "early_stopping": None, "vocab_size": len(made) + 2}
    config = write_config(folder, config, overrides)
    names = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "max_length", "pad_token_id")
    write_json(folder / "generation_config.json", {name: config[name] for name in names})
    write_weights(folder, "AutoModelForSeq2SeqLM", config, "safetensors")
    return folder


def tiny_mbart(folder: Path, **overrides: Any) -> Path:
    """facebook/mbart-large-50-many-to-many-mmt: the source's language first, the target forced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(pieces(special=("<unk>", "<s>", "</s>")))
    special = {
        **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
        **{"mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"},
    }
    settings = {
        "model_max_length": 1024,
        "src_lang": "en_XX",
        "tokenizer_class": "MBart50Tokenizer",
    }
    write_json(folder / "tokenizer_config.json", {**settings, **special})
    config: Config = {**MBART, "vocab_size": len(MBart50Tokenizer.from_pretrained(folder))}
    config = write_config(folder, config, overrides)
    names = (
        *("bos_token_id", "decoder_start_token_id", "early_stopping", "eos_token_id"),
        *("forced_eos_token_id", "max_length", "num_beams", "pad_token_id"),
    )
    write_json(folder / "generation_config.json", {name: config[name] for name in names})
    write_weights(folder, "AutoModelForSeq2SeqLM", config, "safetensors")
    return folder


def tiny_t5(folder: Path, **overrides: Any) -> Path:
    """google-t5/t5-small before it had a tokenizer.json: its SentencePiece model alone."""
    folder.mkdir(parents=True, exist_ok=True)
    model = pieces(special=("<pad>", "</s>", "<unk>"))
    (folder / "spiece.model").write_bytes(model)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 512})
    config = write_config(folder, {**T5, "vocab_size": PIECES + 112}, overrides)
    names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    write_json(folder / "generation_config.json", {name: config[name] for name in names})
    write_weights(folder, "AutoModelForSeq2SeqLM", config, "safetensors")
    return folder


@cache
def pieces(
    *,
    kind: str = "unigram",
    count: int = PIECES,
    special: tuple[str, ...] = ("</s>", "<unk>"),
) -> bytes:
    """A SentencePiece model. special: in the order of their ids."""
    sentences = [part for text in (*TEXTS, *PROMPTS, *DOCUMENTS) for part in text.split("\n")]
    made = io.BytesIO()
    ids: Mapping[str, int] = {name: n for n, name in enumerate(special)}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=made,
        vocab_size=count,
        model_type=kind,
        character_coverage=0.98,
        bos_id=ids.get("<s>", -1),
        pad_id=ids.get("<pad>", -1),
        eos_id=ids["</s>"],
        unk_id=ids["<unk>"],
        minloglevel=2,
    )
    return made.getvalue()


def _words(model: bytes) -> list[str]:
    reader = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [
        reader.id_to_piece(n) for n in range(reader.get_piece_size()) if not _is_mark(reader, n)
    ]


def _is_mark(reader: Any, number: int) -> bool:
    return bool(reader.is_control(number) or reader.is_unknown(number))
