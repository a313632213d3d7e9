"""The checkpoint's own defaults of generation, by transformers' names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.preparing.folder import read_object

TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
PARTS: Mapping[str, str] = {"summarize": "summarization", "generate": "text-generation"}
SEARCH = (
    "num_beams",
    "length_penalty",
    "no_repeat_ngram_size",
    "min_length",
    "max_length",
    "early_stopping",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
)


def generation_defaults(
    folder: Path, config: Mapping[str, Any], *, task: str = ""
) -> dict[str, Any]:
    """What generation_config.json says; config.json where it is silent.

    Older checkpoints keep all of it in config.json, and some keep it per task: the part for `task`
    counts, as in transformers' pipelines. How to search is taken from the rest of config.json only
    when there is no generation_config.json, which means to replace it.
    """
    own = read_object(folder, "generation_config.json")
    layers: list[Mapping[str, Any]] = [own]
    if task in PARTS:
        layers.append(_part(config, PARTS[task]))
    if not own:
        layers.append(config)
    found = {name: _first(name, layers) for name in SEARCH}
    found |= {name: _first(name, [own, config]) for name in TOKENS}
    return {name: value for name, value in found.items() if value is not None}


def options_by_task(folder: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of tasks that config.json has a part of its own for (`task_specific_params`)."""
    usual = generation_defaults(folder, config)
    found: dict[str, dict[str, Any]] = {}
    for task, name in PARTS.items():
        generation = generation_defaults(folder, config, task=task)
        options: dict[str, Any] = {} if generation == usual else {"generation": generation}
        prefix = _part(config, name).get("prefix")
        if prefix and task == "summarize":  # T5
            options["instruction"] = prefix
        if options:
            found[task] = options
    return found


def one_id(generation: Mapping[str, Any], name: str) -> int | None:
    """The token id; the first where there are several."""
    value = generation.get(name)
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) else None


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    by_task = config.get("task_specific_params")
    part = by_task.get(name) if isinstance(by_task, dict) else None
    return part if isinstance(part, dict) else {}


def _first(name: str, layers: list[Mapping[str, Any]]) -> Any:
    return next((layer[name] for layer in layers if layer.get(name) is not None), None)
