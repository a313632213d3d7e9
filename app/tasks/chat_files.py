"""Where a checkpoint's chat template lies: in files beside the model, or in the head of a GGUF."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

JINJA, JSON, CONFIG = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
MOST_BYTES = 32 * 2**20  # of a file with JSON, and of one string in a GGUF's head
MOST_KEYS = 10_000
_GGUF_TYPES = "B b H h I i f ? S A Q q d".split()  # by number; S: text, A: list
_TEXT, _LIST = 8, 9


@dataclass(frozen=True, slots=True)
class ChatFiles:
    """templates: by name, `default` and maybe `tool_use`. tokens: special ones, by their names."""

    templates: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)


def read_chat_files(model: Path) -> ChatFiles:
    """model: a folder, or a GGUF file. Raises OSError, or ValueError for a broken file."""
    if model.is_dir():
        return _of_folder(model)
    if model.suffix == ".gguf":
        with model.open("rb") as file:
            return _of_gguf(_read_head(file))
    return ChatFiles()


def _of_folder(folder: Path) -> ChatFiles:
    config = _read_object(folder / CONFIG)
    tokens = {name: text for name in TOKENS if (text := _token(config.get(name)))}
    if (path := folder / JINJA).is_file():
        templates = {"default": path.read_text(encoding="utf-8")}
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        templates |= {file.stem: file.read_text(encoding="utf-8") for file in more[:16]}
        return ChatFiles(templates, tokens)
    said = _read_object(folder / JSON).get("chat_template") or config.get("chat_template")
    return ChatFiles(_named(said), tokens)


def _named(said: Any) -> dict[str, str]:
    """One template, or several with names."""
    if isinstance(said, str):
        return {"default": said}
    entries = said if isinstance(said, list) else []
    pairs = [(e.get("name"), e.get("template")) for e in entries if isinstance(e, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _token(said: Any) -> str:
    """A special token is its text, or an object that holds it."""
    text = said.get("content") if isinstance(said, dict) else said
    return text if isinstance(text, str) else ""


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES} bytes")
    try:
        found = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _of_gguf(head: Mapping[str, Any]) -> ChatFiles:
    prefix = "tokenizer.chat_template"
    templates = {
        key.removeprefix(prefix).lstrip(".") or "default": value
        for key, value in head.items()
        if key.startswith(prefix) and isinstance(value, str)
    }
    words = head.get("tokenizer.ggml.tokens") or []
    names = {
        "bos_token": "bos_token_id",
        "eos_token": "eos_token_id",
        "pad_token": "padding_token_id",
        "unk_token": "unknown_token_id",
    }
    places = {token: head.get(f"tokenizer.ggml.{name}") for token, name in names.items()}
    tokens = {
        token: words[place]
        for token, place in places.items()
        if isinstance(place, int) and 0 <= place < len(words)
    }
    return ChatFiles(templates, tokens)


def _read_head(file: BinaryIO) -> dict[str, Any]:
    """The keys of a GGUF file (version 2 or 3, little-endian); tensors are not looked at."""
    if file.read(4) != b"GGUF":
        raise ValueError("not a GGUF file")
    version, _, keys = _numbers(file, "<IQQ")
    if version not in (2, 3) or keys > MOST_KEYS:
        raise ValueError(f"a GGUF file of version {version} with {keys} keys")
    return {_text(file): _value(file, _numbers(file, "<I")[0]) for _ in range(keys)}


def _value(file: BinaryIO, kind: int, depth: int = 0) -> Any:
    if kind >= len(_GGUF_TYPES) or depth > 2:
        raise ValueError(f"a GGUF file with a value of type {kind}")
    if kind == _TEXT:
        return _text(file)
    if kind != _LIST:
        return _numbers(file, "<" + _GGUF_TYPES[kind])[0]
    inner, count = _numbers(file, "<IQ")
    if count > MOST_BYTES:
        raise ValueError(f"a GGUF file with a list of {count}")
    if inner in (_TEXT, _LIST):
        return [_value(file, inner, depth + 1) for _ in range(count)]
    if inner >= len(_GGUF_TYPES):
        raise ValueError(f"a GGUF file with a list of type {inner}")
    return list(_numbers(file, f"<{count}{_GGUF_TYPES[inner]}"))


def _text(file: BinaryIO) -> str:
    (size,) = _numbers(file, "<Q")
    if size > MOST_BYTES:
        raise ValueError(f"a GGUF file with a text of {size} bytes")
    return _bytes(file, size).decode("utf-8", "replace")


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, _bytes(file, struct.calcsize(form)))


def _bytes(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("a GGUF file that ends in its head")
    return data
