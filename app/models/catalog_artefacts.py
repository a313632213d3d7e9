"""The artefacts of a catalog: pinned files by role, a checkpoint that is prepared first, or another
server, of which nothing is loaded here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from app.core.checkpoint import Kind, Precision
from app.core.errors import CannotLoad, ConfigurationError
from app.core.upstream import UpstreamOptions
from app.models.catalog_file import Place, check_name, convert
from app.models.sources import FileSource, PypiSource, parse_checkpoint_source, parse_source
from app.models.spec import Artefact, Checkpoint, ModelFile
from app.runtimes.catalogue import PREFERRED, is_remote, kinds_of

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Positive = Annotated[int, msgspec.Meta(gt=0)]
Entries = dict[str, Any]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    sha256: _Sha256
    size_bytes: _Positive
    package_sha256: _Sha256 | None = None


class CheckpointFields(msgspec.Struct, frozen=True):
    """What an artefact of its own and a version with a source have in common."""

    source: str | None = None
    precision: Precision = "int8"
    max_tokens: _Positive | None = None
    allow_pickle: bool = False
    accept_parity: bool = False
    runtime: str | None = None
    runtime_options: Entries = {}
    license: str = ""
    origin: str = ""


class ArtefactEntry(CheckpointFields, frozen=True, forbid_unknown_fields=True):
    files: Entries = {}
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Loadable:
    """An artefact with the runtime that loads it."""

    artefact: Artefact
    runtime: str
    kind: Kind
    runtime_options: Mapping[str, Any]


def declared_artefact(name: str, raw: Any, wanted: Iterable[Kind], place: Place) -> Loadable:
    """An entry of `artefacts`. wanted: kinds that the tasks of its versions would take."""
    check_name(name, place)
    given = convert(raw, ArtefactEntry, place)
    if given.source is not None:
        if given.files:
            raise place.inside("files").wrong("an artefact has files or a source, not both")
        asked = given.kind or next(iter(wanted), None)
        if asked is None:
            raise place.wrong("no version uses it; remove it, or say its `kind`")
        return checkpoint_artefact(name, given, asked, place)
    if is_remote(given.runtime):
        return _remote_artefact(name, given, place)
    if given.runtime is None:
        raise place.inside("runtime").wrong("is required with files")
    loads = _kinds_of(given.runtime, place)
    if not given.files:
        raise place.wrong("needs files, at least one, or a source")
    _refuse_checkpoint_fields(given, place)
    served = Artefact(
        name,
        files_of_entry(given.files, place.inside("files")),
        license=given.license,
        origin=given.origin,
    )
    kind = given.kind or loads[0]
    if kind not in loads:
        raise place.inside("kind").wrong(
            f"{given.runtime} does not load what gives {kind}; it loads {', '.join(loads)}"
        )
    return Loadable(served, given.runtime, kind, given.runtime_options)


def _remote_artefact(name: str, given: ArtefactEntry, place: Place) -> Loadable:
    """Nothing is loaded: another server answers."""
    if given.files:
        raise place.inside("files").wrong(f"{given.runtime} loads no files")
    if given.kind not in (None, "remote"):
        raise place.inside("kind").wrong(f"{given.runtime} gives remote, not {given.kind}")
    _refuse_checkpoint_fields(given, place)
    convert(given.runtime_options, UpstreamOptions, place.inside("runtime_options"))
    artefact = Artefact(name, license=given.license, origin=given.origin)
    return Loadable(artefact, given.runtime or "", "remote", given.runtime_options)


def checkpoint_artefact(name: str, given: CheckpointFields, kind: Kind, place: Place) -> Loadable:
    """A whole checkpoint, prepared for the runtime that suits its kind unless one is named."""
    text = _checkpoint_source(given.source or "", place)
    runtime = given.runtime or PREFERRED[kind][0]
    if kind not in (loads := _kinds_of(runtime, place)):
        raise place.inside("runtime").wrong(
            f"{runtime} does not load what gives {kind}; it loads {', '.join(loads)}"
        )
    checkpoint = Checkpoint(
        source=text,
        precision=given.precision,
        allow_pickle=given.allow_pickle,
        accept_parity=given.accept_parity,
        max_tokens=given.max_tokens,
        runtime=given.runtime,
    )
    artefact = Artefact(
        name, checkpoint=checkpoint, license=given.license, origin=given.origin or text
    )
    return Loadable(artefact, runtime, kind, given.runtime_options)


def name_of(source: str) -> str:
    """What an artefact is called that has no name of its own: the last part of its source."""
    rest = source.partition("://")[2].partition("@")[0]
    return PurePosixPath(rest).name or "checkpoint"


def files_of_entry(raw: Entries, place: Place) -> tuple[ModelFile, ...]:
    return tuple(_file(role, entry, place.inside(role)) for role, entry in raw.items())


def _kinds_of(runtime: str, place: Place) -> tuple[Kind, ...]:
    try:
        return kinds_of(runtime)
    except CannotLoad as error:
        raise place.inside("runtime").wrong(error) from None


def _refuse_checkpoint_fields(given: ArtefactEntry, place: Place) -> None:
    usual = ArtefactEntry()
    for name in ("precision", "max_tokens", "allow_pickle", "accept_parity"):
        if getattr(given, name) != getattr(usual, name):
            raise place.inside(name).wrong("is for checkpoints with a source only")


def _checkpoint_source(text: str, place: Place) -> str:
    try:
        source = parse_checkpoint_source(text)
    except ConfigurationError as error:
        raise place.inside("source").wrong(error) from None
    return _absolute(source.path, place) if isinstance(source, FileSource) else str(source)


def _absolute(path: Path, place: Place) -> str:
    """From here on it means the same in every folder."""
    return f"file://{(place.catalog.absolute().parent / path).resolve()}"


def _file(role: str, raw: Any, place: Place) -> ModelFile:
    check_name(role, place)
    given = convert(raw, _File, place)
    text = given.source
    try:
        source = parse_source(text)
    except ConfigurationError as error:
        raise place.inside("source").wrong(error) from None
    match source:
        case PypiSource() if given.package_sha256 is None:
            raise place.inside("package_sha256").wrong("is required with a pypi:// source")
        case FileSource() if given.package_sha256 is not None:
            raise place.inside("package_sha256").wrong("is for pypi:// sources only")
        case FileSource(path):
            text = _absolute(path, place)
    return ModelFile(role, text, given.sha256, given.size_bytes, given.package_sha256)
