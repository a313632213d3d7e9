"""The record of what was made or found ready: facts that were read, files and their size."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from app.core.checkpoint import Manifest, Parity
from app.preparing.facts import Facts
from app.preparing.job import PrepareJob


def manifest_of(
    job: PrepareJob,
    facts: Facts,
    files: Mapping[str, str],
    *,
    parity: Parity | None = None,
    tools: Mapping[str, str] | None = None,
) -> Manifest:
    """files: role to path, relative to the job's out_folder or absolute."""
    return Manifest(
        kind=job.kind,
        runtime=job.runtime,
        architecture=facts.architecture,
        precision=job.precision,
        files=dict(files),
        runtime_options=facts.runtime_options,
        task_options=facts.task_options,
        generation=facts.generation,
        options_by_task=facts.options_by_task,
        size_bytes=_size_bytes(Path(job.out_folder).resolve(), files),
        parity=parity,
        tools=dict(tools or {}),
    )


def _size_bytes(folder: Path, files: Mapping[str, str]) -> int:
    """Each file once: a role may name a folder, and another one a file in it."""
    found = {inner for path in files.values() for inner in _all_of(folder / path)}
    return sum(path.stat().st_size for path in found if path.is_file())


def _all_of(path: Path) -> Iterator[Path]:
    """The files in a folder; a file, and beside a graph its weights."""
    if path.is_dir():
        yield from path.rglob("*")
        return
    yield path
    match path.suffix:
        case ".xml":
            yield path.with_suffix(".bin")
        case ".onnx":
            yield from (path.with_name(path.name + end) for end in ("_data", ".data"))
