"""What a checkpoint says about itself, from its JSON files alone: lengths, labels, token ids.

Light, so that files which are served as they lie need no library to be described.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.folder import read_object
from app.preparing.generation import generation_defaults, one_id, options_by_task
from app.preparing.job import PrepareJob
from app.preparing.lengths import longest_input
from app.preparing.pooling import pooling_of

Config = Mapping[str, Any]

KV_NUMBER_BYTES = 4  # float32; a runtime that keeps its cache in fewer bits knows by how much
REFERENCE = "torch_reference"
DEFAULT_LABELS = 2  # of a transformers configuration that does not name them


@dataclass(frozen=True, slots=True)
class Facts:
    """The part of a Manifest that is read, not made."""

    architecture: str
    runtime_options: dict[str, Any] = field(default_factory=dict)
    task_options: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    options_by_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: str = ""

    @property
    def compared_generation(self) -> Mapping[str, Any]:
        """The defaults that hold for the task which asked for the checkpoint."""
        own: Mapping[str, Any] = self.options_by_task.get(self.task, {}).get("generation", {})
        return own or self.generation


def facts_of(job: PrepareJob) -> Facts:
    """Raises CannotLoad for what is missing, contradictory or not supported."""
    folder = Path(job.source_folder)
    config = read_object(folder, "config.json")
    if not config:
        raise CannotLoad("the checkpoint has no config.json")
    options: dict[str, Any] = {
        "max_tokens": longest_input(folder, config, job.max_tokens),
        "precision": job.precision,
    }
    architecture = architecture_of(config)
    match job.kind:
        case "scores":
            return Facts(architecture, options, _scoring(config, job.task))
        case "vectors":
            return Facts(architecture, {**options, **pooling_of(folder)})
        case "tokens":
            options["kv_bytes_per_token"] = _kv_bytes_per_token(config)
            generation = generation_defaults(folder, config)
            by_task = options_by_task(folder, config)
            return Facts(architecture, options, {}, generation, by_task, job.task)
        case "sequences":
            generation = generation_defaults(folder, config)
            options |= special_ids(generation)
            forced = one_id(generation, "forced_eos_token_id")
            if forced is not None and job.runtime != REFERENCE:  # that one knows by itself
                options["forced_eos"] = forced
            by_task = options_by_task(folder, config)
            return Facts(architecture, options, {}, generation, by_task, job.task)
        case _:
            raise CannotLoad(f"a checkpoint cannot be prepared to give {job.kind}")


def architecture_of(config: Config) -> str:
    named = config.get("architectures")
    return str(named[0] if isinstance(named, list) and named else config.get("model_type", ""))


def special_ids(generation: Mapping[str, Any]) -> dict[str, int]:
    """What an encoder-decoder's engine must know, from the generation's token ids."""
    start = one_id(generation, "decoder_start_token_id")
    end = one_id(generation, "eos_token_id")
    if start is None or end is None:
        missing = "decoder_start_token_id" if start is None else "eos_token_id"
        raise CannotLoad(f"neither generation_config.json nor config.json names {missing}")
    pad = one_id(generation, "pad_token_id")
    return {"decoder_start": start, "eos": end, "pad": end if pad is None else pad}


def labels_of(config: Config) -> list[str]:
    """In the order of the logits."""
    named = config.get("id2label")
    if named is None:
        count = config.get("num_labels", DEFAULT_LABELS)
        return [f"LABEL_{number}" for number in range(int(count))]
    try:
        by_number = {int(number): str(label) for number, label in dict(named).items()}
    except (TypeError, ValueError) as error:
        raise CannotLoad("config.json: id2label is not a table of numbers and labels") from error
    if sorted(by_number) != list(range(len(by_number))) or not by_number:
        raise CannotLoad(
            f"config.json: id2label must number its labels from 0 without a gap, not "
            f"{sorted(by_number)}"
        )
    return [by_number[number] for number in range(len(by_number))]


def _scoring(config: Config, task: str) -> dict[str, Any]:
    labels = labels_of(config)
    if task == "rerank":
        if len(labels) != 1:
            raise CannotLoad(f"a reranker has one score per text, this one has {len(labels)}")
        return {"function": _reranking_function(config)}
    if config.get("problem_type") == "regression":
        raise CannotLoad("config.json: problem_type is regression, whose output is not a label")
    is_single_choice = len(labels) > 1 and config.get("problem_type") not in (
        "multi_label_classification",
    )
    return {"labels": labels, "function": "softmax" if is_single_choice else "sigmoid"}


def _reranking_function(config: Config) -> str:
    """What sentence-transformers' CrossEncoder would apply: the sigmoid, unless told otherwise."""
    inner = config.get("sentence_transformers")
    named = (inner or {}).get("activation_fn") or config.get(
        "sbert_ce_default_activation_function", "Sigmoid"
    )
    name = str(named).rpartition(".")[2]
    functions = {"Sigmoid": "sigmoid", "Identity": "none"}
    if name not in functions:
        raise CannotLoad(f"config.json: the reranker's activation {named} is not supported")
    return functions[name]


def _kv_bytes_per_token(config: Config) -> int:
    """Of key and value of one token, over all layers."""
    heads = _number(config, "num_attention_heads", "n_head", "num_heads")
    grouped = _number(config, "num_key_value_heads", "num_kv_heads", default=0)
    kv_heads = grouped or (1 if config.get("multi_query") else heads)
    width = _number(config, "head_dim", default=0)
    if not width:
        width = _number(config, "hidden_size", "n_embd", "d_model") // heads
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    return 2 * layers * kv_heads * width * KV_NUMBER_BYTES


def _number(config: Config, *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int):
            return value
    if default is None:
        raise CannotLoad(f"config.json has no {' or '.join(names)}")
    return default
