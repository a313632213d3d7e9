"""What a worker must be told to load: files brought, checkpoints prepared, keys worked out.

Versions that share an artefact are prepared together; what only one of them needs may fail alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from platform import machine
from typing import Any

import structlog

from app.core.checkpoint import Kind
from app.core.config import Settings
from app.core.errors import FileUnavailable, will_pass
from app.models.errands import Errands
from app.models.hub import Hub
from app.models.keys import key_of
from app.models.planned import Origin, Wanted
from app.models.prepared import PreparedStore
from app.models.prepared_folder import Prepared
from app.models.progress import Progress
from app.models.spec import ModelFile, ModelSpec
from app.models.store import ModelStore
from app.tasks.catalogue import task_info
from app.workers.means import Preparation
from app.workers.messages import HostedVersion, Load

log = structlog.get_logger()

CALIBRATION_FORMAT = "4"  # raise it when the same measurement would lead elsewhere
TAKES_GENERATION: frozenset[Kind] = frozenset({"sequences", "tokens"})


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the files of models come from."""

    files: ModelStore
    checkpoints: PreparedStore

    def stop(self) -> None:
        """End whatever is being fetched or prepared, and refuse more. From any thread."""
        self.files.stop()
        self.checkpoints.stop()


def open_stores(settings: Settings, progress: Progress) -> Stores:
    """Both halves of MODEL_STORE; nothing is read yet."""
    files = ModelStore(settings.model_store, progress)
    errands = Errands()
    hub = Hub(errands, progress)
    return Stores(files, PreparedStore(files.root, hub, errands, settings.cpu_threads))


@dataclass(frozen=True, slots=True)
class _Brought:
    """The artefact on this machine. made_of: what identifies its content."""

    files: dict[str, str]
    runtime: str
    kind: Kind
    made_of: Sequence[object]
    options: Mapping[str, Any]
    task_options: Mapping[str, Any] = field(default_factory=dict)
    options_by_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


Sought = Prepared | Origin | None
"""An artefact that is prepared already, or what it is to be made of; None: its files are pinned."""


def may_ask(group: Sequence[ModelSpec], stores: Stores) -> bool:
    """Whether `seek` may have to ask a hub: nothing is prepared, as far as can be told without."""
    return any(stores.checkpoints.find(wanted) is None for wanted in wanted_by(group[:1]))


def seek(group: Sequence[ModelSpec], stores: Stores) -> Sought:
    """Makes nothing. Blocks. Raises CannotLoad when nothing can be served."""
    return next((stores.checkpoints.seek(wanted) for wanted in wanted_by(group[:1])), None)


def is_at_hand(group: Sequence[ModelSpec], sought: Sought, stores: Stores) -> bool:
    """Whether `prepare` would neither fetch nor make anything."""
    files = (*group[0].artefact.files, *(file for spec in group for file in spec.task_files))
    return not isinstance(sought, Origin) and all(
        stores.files.problem(file) is None for file in files
    )


def prepare(
    group: Sequence[ModelSpec],
    sought: Sought,
    stores: Stores,
    settings: Settings,
    tell: Callable[[str], None],
) -> Preparation:
    """Files of the artefact, which all need, and of each version, which may fail alone. Blocks.

    tell: is called with what is being done. Raises CannotLoad when nothing can be served.
    """
    brought = _bring(group, sought, stores, tell)
    task_files: dict[ModelFile, Path] = {}
    refused: dict[str, str] = {}
    passing: FileUnavailable | None = None
    served: list[ModelSpec] = []
    for spec in group:
        try:
            task_files.update((file, stores.files.fetch(file)) for file in spec.task_files)
            served.append(spec)
        except FileUnavailable as error:
            log.error("version_failed", version=spec.key, reason=str(error))
            refused[spec.key] = str(error)
            passing = error if will_pass(error) else passing
    if not served:
        raise FileUnavailable("; ".join(refused.values())) from passing
    load = _load_message(served, brought, task_files, stores.files.root, settings)
    return Preparation(load, refused, dict(brought.facts))


def _bring(
    group: Sequence[ModelSpec], sought: Sought, stores: Stores, tell: Callable[[str], None]
) -> _Brought:
    first = group[0]
    if isinstance(sought, Origin):
        (wanted,) = wanted_by([first])
        sought = stores.checkpoints.make(wanted, sought, tell)
    if sought is not None:
        return _from_checkpoint(first, sought)
    paths = {file: stores.files.fetch(file) for file in first.artefact.files}
    return _Brought(
        files=_by_role(first.artefact.files, paths),
        runtime=first.runtime,
        kind=first.kind,
        made_of=[[file.sha256 for file in first.artefact.files], first.runtime],
        options=first.runtime_options,
    )


def wanted_by(specs: Iterable[ModelSpec]) -> tuple[Wanted, ...]:
    """Every checkpoint that these versions need, each once, in the order of the catalog."""
    return tuple(
        dict.fromkeys(
            Wanted(spec.artefact.checkpoint, spec.kind, spec.task)
            for spec in specs
            if spec.artefact.checkpoint is not None
        )
    )


def _from_checkpoint(spec: ModelSpec, prepared: Prepared) -> _Brought:
    manifest = prepared.manifest
    generation = {"generation": manifest.generation} if spec.kind in TAKES_GENERATION else {}
    return _Brought(
        files=prepared.files,
        runtime=manifest.runtime,
        kind=manifest.kind,
        made_of=[prepared.folder.name, manifest.runtime],
        options={**manifest.runtime_options, **spec.runtime_options},
        task_options={**manifest.task_options, **generation},
        options_by_task=manifest.options_by_task,
        facts=prepared.facts,
    )


def _load_message(
    group: Sequence[ModelSpec],
    brought: _Brought,
    task_files: Mapping[ModelFile, Path],
    root: Path,
    settings: Settings,
) -> Load:
    library = package_version("openvino-genai")
    return Load(
        artefact=group[0].artefact.name,
        files=brought.files,
        runtime=brought.runtime,
        kind=brought.kind,
        options=dict(brought.options),
        versions=[
            HostedVersion(
                key=spec.key,
                task=spec.task,
                options={
                    **brought.task_options,
                    **brought.options_by_task.get(spec.task, {}),
                    **spec.task_options,
                },
                files=_by_role(spec.task_files, task_files),
            )
            for spec in group
        ],
        cpu_threads=settings.cpu_threads,
        max_batch_size=settings.max_batch_size,
        batch_timeout_ms=settings.batch_timeout_ms,
        calibration_path=_calibration_path(group[0], brought, library, root, settings),
        prepared_path=str(root / "prepared" / key_of([*brought.made_of, library])),
        log_format=settings.log_format,
        log_level=settings.effective_log_level,
        memory_limit_bytes=settings.worker_memory_limit_mb * 2**20,
        nice=settings.worker_nice,
    )


def _by_role(files: Sequence[ModelFile], paths: Mapping[ModelFile, Path]) -> dict[str, str]:
    return {file.role: str(paths[file]) for file in files}


def _calibration_path(
    spec: ModelSpec, brought: _Brought, library: str, root: Path, settings: Settings
) -> str:
    """Keyed by everything that shapes a measurement: files, options, limits, processor."""
    if task_info(spec.task, spec.kind).shape != "one_shot":
        return ""  # the engine, or another server, batches by itself; there is nothing to choose
    if spec.kind == "tensors":
        return ""  # what a row costs depends on dimensions that only its callers know
    key = key_of(
        [
            CALIBRATION_FORMAT,
            *brought.made_of,
            brought.kind,
            library,
            package_version("ctranslate2"),
            sorted(brought.options.items()),
            settings.cpu_threads,
            settings.max_batch_size,
            _processor(),
        ]
    )
    return str(root / "calibration" / f"{key}.json")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return machine()
    return next((line for line in lines if line.startswith("model name")), machine())
