"""Tiny encoders with their true architectures, exported as optimum exports the large ones."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nncf
import openvino as ov
import torch
from optimum.exporters.openvino import main_export
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaForSequenceClassification,
    XLMRobertaForSequenceClassification,
)

WORDS = [f"w{number}" for number in range(200)]
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 210,
    "initializer_range": 0.1,
}

ROBERTA: dict[str, Any] = {"max_position_embeddings": 130, "type_vocab_size": 1}


@dataclass(frozen=True)
class Exported:
    """The original, and the folder that optimum made of it."""

    original: Any
    tokenizer: Any
    folder: Path

    def files(self, precision: str) -> dict[str, str]:
        return {
            "model": str(self.folder / f"{precision}.xml"),
            "tokenizer": str(self.folder / "tokenizer.json"),
        }

    def outputs(self, *texts: Any) -> Any:
        """What the original says of each text (or pair) by itself."""
        with torch.inference_mode():
            return [self.original(**self._encoded(text)) for text in texts]

    def _encoded(self, text: Any) -> Any:
        pair = text if isinstance(text, tuple) else (text,)
        return self.tokenizer(*pair, return_tensors="pt")


def roberta(folder: Path) -> Exported:
    """A classifier of three labels."""
    config = AutoConfig.for_model("roberta", **SIZES, num_labels=3, **ROBERTA)
    return _export(RobertaForSequenceClassification(config), folder, "text-classification")


def reranker(folder: Path) -> Exported:
    """A cross-encoder with one score, without types of tokens (as bge-reranker)."""
    config = AutoConfig.for_model("xlm-roberta", **SIZES, num_labels=1, **ROBERTA)
    return _export(XLMRobertaForSequenceClassification(config), folder, "text-classification")


def bert_reranker(folder: Path) -> Exported:
    """A cross-encoder with one score and types of tokens (as ms-marco-MiniLM)."""
    config = AutoConfig.for_model("bert", **SIZES, num_labels=1, max_position_embeddings=128)
    return _export(BertForSequenceClassification(config), folder, "text-classification")


def bert_embedder(folder: Path) -> Exported:
    """An encoder with vectors per token."""
    config = AutoConfig.for_model("bert", **SIZES, max_position_embeddings=128)
    return _export(BertModel(config, add_pooling_layer=False), folder, "feature-extraction")


def _export(model: Any, folder: Path, task: str) -> Exported:
    torch.manual_seed(5)
    model.init_weights()
    model.eval()
    is_bert = model.config.model_type == "bert"
    tokenizer = _tokenizer(is_bert)
    checkpoint = folder / "checkpoint"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every condition in the model's code
        main_export(str(checkpoint), output=folder / "ir", task=task, ov_config=None)
    exported = ov.Core().read_model(folder / "ir" / "openvino_model.xml")
    ov.save_model(exported, folder / "fp32.xml", compress_to_fp16=False)
    smaller = nncf.compress_weights(exported, mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(smaller, folder / "int8.xml", compress_to_fp16=False)
    (checkpoint / "tokenizer.json").rename(folder / "tokenizer.json")
    return Exported(model, tokenizer, folder)


def _tokenizer(is_bert: bool) -> Any:
    """One token per word, with the family's marks around texts and pairs."""
    start, end, pad = ("[CLS]", "[SEP]", "[PAD]") if is_bert else ("<s>", "</s>", "<pad>")
    marks = [pad, start, end] if is_bert else [start, pad, end]
    unknown = "[UNK]" if is_bert else "<unk>"
    vocabulary = {token: index for index, token in enumerate([*marks, unknown, *WORDS])}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = (end, vocabulary[end]), (start, vocabulary[start])
    built.post_processor = (
        processors.BertProcessing(*ends) if is_bert else processors.RobertaProcessing(*ends)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token=pad,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] * is_bert)],
    )
