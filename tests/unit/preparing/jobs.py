"""Checkpoint folders made of JSON files alone, and jobs for them."""

import json
from pathlib import Path
from typing import Any

from app.preparing.job import PrepareJob

ROBERTA: dict[str, Any] = {
    "architectures": ["RobertaForSequenceClassification"],
    "model_type": "roberta",
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
}


def folder_of(folder: Path, **files: Any) -> Path:
    """Keywords are names of JSON files without their ending; `__` stands for a slash."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def job_for(source: Path, **changes: Any) -> PrepareJob:
    defaults: dict[str, Any] = {
        "source_folder": str(source),
        "out_folder": str(source.parent / "out"),
        "kind": "scores",
        "task": "classify",
        "runtime": "openvino_encoder",
        "format": "safetensors",
        "precision": "int8",
    }
    return PrepareJob(**{**defaults, **changes})
