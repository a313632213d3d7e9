"""Which files of a checkpoint are needed, and what its weights come in."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import CannotLoad
from app.preparing.job import Format

CONVERTED: frozenset[Format] = frozenset({"safetensors", "pickle"})

# Beside the weights, wherever the checkpoint has them. Patterns match whole paths.
_COMMON = re.compile(
    r"config\.json|generation_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|(target_)?vocab\.json|merges\.txt|vocab\.txt|[^/]+\.spm"
    r"|(spiece|spm|sentencepiece(\.bpe)?|tokenizer)\.model|chat_template[^/]*"
    r"|modules\.json|1_Pooling/config\.json|sentence_bert_config\.json"
    r"|config_sentence_transformers\.json"
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.[a-z]+)")
_CT2_VOCABULARY = re.compile(r"(shared_|source_|target_)?vocabulary\.(json|txt)")
_OPENVINO = re.compile(r"openvino_(model|tokenizer|detokenizer)\.(xml|bin)")
_SHOWN = 8  # names of files that an error lists


@dataclass(frozen=True, slots=True)
class Listing:
    """A checkpoint as its publisher laid it out. files: path to bytes."""

    files: Mapping[str, int]
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """weights: those of `paths` that hold the parameters; they are fetched last."""

    format: Format
    paths: tuple[str, ...]
    weights: tuple[str, ...]
    download_bytes: int


def choose_files(listing: Listing, *, allow_pickle: bool) -> Choice:
    """The files that are needed, and no other. Raises CannotLoad that says what is missing.

    Weights for transformers win over what others made of them; safetensors win over a pickle.
    """
    files = listing.files
    if weights := _whole(files, "model", ".safetensors"):
        return _choice("safetensors", files, weights)
    if weights := _whole(files, "pytorch_model", ".bin"):
        if not allow_pickle:
            raise CannotLoad(
                f"its weights exist only as a pickle ({some(weights)}): a file format that can "
                "run code of its maker while it is read, and so is refused. With `allow_pickle: "
                "true` in the catalog it is read safely: weights only, in a process of its own"
            )
        return _choice("pickle", files, weights)
    return _ready_made(files)


def _whole(files: Mapping[str, int], stem: str, end: str) -> tuple[str, ...]:
    """One file of weights, or its index and every shard; empty where there is neither."""
    if f"{stem}{end}" in files:
        return (f"{stem}{end}",)
    index = f"{stem}{end}.index.json"
    if index not in files:
        return ()
    shards = {path: found for path in files if (found := _shard(path, stem, end))}
    count = max((int(found["count"]) for found in shards.values()), default=0)
    wanted = tuple(f"{stem}-{n:05}-of-{count:05}{end}" for n in range(1, count + 1))
    if missing := [path for path in wanted if path not in shards]:
        raise CannotLoad(f"of its {count} files of weights these are missing: {some(missing)}")
    if not wanted:
        raise CannotLoad(f"it has {index} but none of the files that this names")
    return (index, *wanted)


def _shard(path: str, stem: str, end: str) -> re.Match[str] | None:
    found = _SHARD.fullmatch(path)
    return found if found and (found["stem"], found["end"]) == (stem, end) else None


def _ready_made(files: Mapping[str, int]) -> Choice:
    for folder in ("", "openvino/"):
        if f"{folder}openvino_model.xml" in files:
            own = tuple(
                path
                for path in files
                if path.startswith(folder) and _OPENVINO.fullmatch(path.removeprefix(folder))
            )
            if f"{folder}openvino_model.bin" not in own:
                raise CannotLoad(f"{folder}openvino_model.xml is there, its .bin is missing")
            return _choice("openvino", files, own)
        if folder == "" and (others := _other_formats(files)):
            return others
    raise CannotLoad(
        "it holds no weights that can be used (model.safetensors, pytorch_model.bin, "
        "openvino_model.xml, model.onnx, model.bin of CTranslate2, one .gguf); it holds: "
        f"{some(files)}"
    )


def _other_formats(files: Mapping[str, int]) -> Choice | None:
    if "model.onnx" in files:
        parts = ("model.onnx", "model.onnx_data", "model.onnx.data")
        return _choice("onnx", files, tuple(path for path in parts if path in files))
    vocabularies = tuple(path for path in files if _CT2_VOCABULARY.fullmatch(path))
    if {"model.bin", "config.json"} <= set(files) and vocabularies:
        return _choice("ctranslate2", files, ("model.bin", *vocabularies))
    ggufs = [path for path in files if path.endswith(".gguf")]
    if len(ggufs) > 1:
        raise CannotLoad(
            f"it holds {len(ggufs)} .gguf files ({some(ggufs)}), and one is needed: put the one "
            "that you want into a folder of its own and name that as file://"
        )
    return _choice("gguf", files, tuple(ggufs)) if ggufs else None


def _choice(format: Format, files: Mapping[str, int], weights: tuple[str, ...]) -> Choice:
    common = (path for path in files if _COMMON.fullmatch(path))
    paths = tuple(dict.fromkeys((*sorted(common), *weights)))
    return Choice(format, paths, weights, sum(files[path] for path in paths))


def some(names: Iterable[str]) -> str:
    """The first of these names, for an error."""
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (", ".join(listed[:_SHOWN]) or "nothing") + more
