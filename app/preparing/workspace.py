"""A folder with links to what libraries may read of a checkpoint.

Pickles and Python files are never linked, so that no library finds code of the checkpoint's to
run. The checkpoint's own folder is never written to.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.folder import read_object

LINKED = {".json", ".txt", ".model", ".spm", ".jinja", ".safetensors"}
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# What converters read and newer transformers no longer write, with the values that it assumes.
UNWRITTEN: Mapping[str, Mapping[str, Any]] = {
    "bart": {
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
    },
}


def link_files(source: Path, work: Path, *, weights: bool = True) -> None:
    """Links in `work` for the files that libraries may read; config.json as a completed copy."""
    for path in sorted(source.iterdir()):
        is_wanted = path.suffix in LINKED and (weights or ".safetensors" not in path.name)
        if is_wanted and path.name != "config.json":
            (work / path.name).symlink_to(path.resolve())
    config = read_object(source, "config.json")
    completed = {**UNWRITTEN.get(str(config.get("model_type")), {}), **config}
    (work / "config.json").write_text(json.dumps(completed), encoding="utf-8")


def check_weights(folder: Path) -> None:
    """Raises CannotLoad unless all files of the weights are there."""
    if (folder / WEIGHTS).is_file():
        return
    table = read_object(folder, INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CannotLoad(f"the checkpoint has neither {WEIGHTS} nor {INDEX}")
    missing = sorted({str(name) for name in table.values() if not (folder / str(name)).is_file()})
    if missing:
        raise CannotLoad(f"{INDEX} names files that are missing: {', '.join(missing)}")
