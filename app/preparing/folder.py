"""Reading a checkpoint's JSON files, and what goes wrong with them, in words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.core.errors import CannotLoad

LONGEST_REASON = 400  # characters of a library's error that are worth quoting


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file; empty where there is no file. Raises CannotLoad."""
    content = read_json(folder, name)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CannotLoad(f"{name} is not a JSON object")
    return content


def read_json(folder: Path, name: str) -> Any:
    """None where there is no file."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{name} cannot be read: {error}") from error


def require(folder: Path, name: str, why: str = "") -> Path:
    """Raises CannotLoad for a file that is missing."""
    path = folder / name
    if not path.is_file():
        raise CannotLoad(f"the checkpoint has no {name}{why}")
    return path


@contextmanager
def said_plainly(doing: str) -> Iterator[None]:
    """Turns whatever a library raises into CannotLoad with the first line of its reason."""
    try:
        yield
    except (CannotLoad, MemoryError):
        raise
    except Exception as error:
        raise CannotLoad(f"{doing} failed: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else "")[:LONGEST_REASON]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
