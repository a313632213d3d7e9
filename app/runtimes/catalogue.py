"""Which runtimes exist. Light: imports no inference library."""

from importlib import import_module
from typing import Any

from app.core.errors import CannotLoad

RUNTIMES: dict[str, str] = {
    "openvino_encoder": "app.runtimes.openvino_encoder:OpenVinoEncoder",
    "openvino_llm": "app.runtimes.openvino_llm:OpenVinoLlm",
}


def runtime_class(name: str) -> Any:
    """The adapter's class. Raises CannotLoad for an unknown name or a missing library."""
    if name not in RUNTIMES:
        raise CannotLoad(f"unknown runtime {name!r}; known: {', '.join(sorted(RUNTIMES))}")
    module, _, attribute = RUNTIMES[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as missing:
        raise CannotLoad(f"runtime {name!r} needs the package {missing.name!r}") from missing
