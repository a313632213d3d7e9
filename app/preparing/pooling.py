"""How token vectors become one vector, as sentence-transformers' files say."""

from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.folder import read_json, read_object

MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
NAMED = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


def pooling_of(folder: Path) -> dict[str, Any]:
    """`pooling` and `normalize`. Without modules.json: the normalised mean.

    Raises CannotLoad for a stage or a way of pooling that is not supported, by its name.
    """
    stages = read_json(folder, "modules.json")
    if stages is None:
        return {"pooling": "mean", "normalize": True}
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise CannotLoad("modules.json is not a list of modules")
    pooling, normalize = "mean", False
    for stage in stages:
        kind, path = str(stage.get("type", "")), str(stage.get("path", ""))
        match kind.rpartition(".")[2]:
            case "Transformer" if not path:
                pass
            case "Pooling":
                pooling = _mode(folder, f"{path}/config.json")
            case "Normalize":
                normalize = True
            case _:
                where = f" in folder {path!r}" if path else ""
                raise CannotLoad(f"modules.json: module {kind}{where} is not supported")
    return {"pooling": pooling, "normalize": normalize}


def _mode(folder: Path, name: str) -> str:
    config = read_object(folder, name)
    if not config:
        raise CannotLoad(f"the checkpoint has no {name}, which modules.json names")
    named = config.get("pooling_mode")
    if named is not None:
        chosen = [str(named)]
        known = NAMED
    else:
        chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
        known = MODES
    if len(chosen) != 1 or chosen[0] not in known:
        said = " and ".join(chosen) or "none"
        raise CannotLoad(f"{name}: pooling {said} is not supported; {', '.join(known)} are")
    return known[chosen[0]]
