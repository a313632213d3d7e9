"""A catalog file: which versions exist. YAML in, checked, `ModelSpec`s out.

A version names an artefact that is declared once and shared, or brings a checkpoint of its own by
its source. Versions with the same artefact share one worker. docs/catalog.md explains every field.
"""

from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import msgspec

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad, ConfigurationError, InvariantBroken
from app.core.price import FREE, NANOS, Price
from app.models.catalog_artefacts import (
    CheckpointFields,
    Entries,
    Loadable,
    checkpoint_artefact,
    declared_artefact,
    files_of_entry,
    name_of,
)
from app.models.catalog_file import Place, check_name, convert, read_yaml
from app.models.spec import Artefact, ModelFile, ModelSpec
from app.tasks.catalogue import checkpoint_kind, task_info, task_kinds

CATALOGS = Path(__file__).parent / "catalogs"

_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]


_Money = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class _Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_tokens: _Money = 0
    output_tokens: _Money = 0
    request: _Money = 0
    compute_hour: _Money = 0

    def whole(self) -> Price:
        whole = Price(*(round(getattr(self, name) * NANOS) for name in self.__struct_fields__))
        return FREE if whole == FREE else whole


class _Version(CheckpointFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    task: str
    artefact: str | None = None
    description: str = ""
    task_options: Entries = {}
    task_files: Entries = {}
    default_timeout_ms: _Milliseconds = 30_000
    price: _Price = _Price()
    cache: bool = False
    load: bool = True
    default: bool = False


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: Entries
    artefacts: Entries = {}


def profile_path(profile: str) -> Path:
    """The catalog that ships under this name. Raises ConfigurationError listing those that do."""
    shipped = {path.stem: path for path in CATALOGS.glob("*.yaml")}
    if profile not in shipped:
        known = ", ".join(sorted(shipped))
        raise ConfigurationError(f"unknown profile {profile!r}; known: {known}")
    return shipped[profile]


def load_catalog(path: Path) -> tuple[ModelSpec, ...]:
    """Every version, in the order of the file. Reads the catalog only, no model file.

    Raises ConfigurationError naming the file, the entry, the field and what is allowed.
    """
    place = Place(path)
    document = convert(read_yaml(place), _Document, place)
    if not document.models:
        raise place.inside("models").wrong("at least one model is needed")
    given = {
        name: _given(name, versions, place.inside("models", name))
        for name, versions in document.models.items()
    }
    artefacts = _Artefacts(document.artefacts, given, place)
    return tuple(
        spec
        for name, versions in given.items()
        for spec in _specs(name, versions, artefacts, place.inside("models", name))
    )


class _Artefacts:
    """The declared artefacts, and those that versions bring along; equal ones are one."""

    def __init__(
        self, declared: Entries, given: Mapping[str, Mapping[str, _Version]], place: Place
    ) -> None:
        wanted: dict[str, list[Kind]] = {}
        for versions in given.values():
            for version in versions.values():
                if version.artefact is not None:
                    wanted.setdefault(version.artefact, []).append(checkpoint_kind(version.task))
        self._named = {
            name: declared_artefact(
                name, raw, wanted.get(name, ()), place.inside("artefacts", name)
            )
            for name, raw in declared.items()
        }

    def of(self, version: _Version, place: Place) -> Loadable:
        """What the version loads. Raises ConfigurationError."""
        if (version.artefact is None) == (version.source is None):
            raise place.wrong("needs an `artefact` that is declared above, or a `source`; not both")
        if version.artefact is None:
            return self._brought(version, place)
        _refuse_source_fields(version, place)
        if version.artefact not in self._named:
            known = ", ".join(sorted(self._named)) or "none"
            problem = f"unknown artefact {version.artefact!r}; declared: {known}"
            raise place.inside("artefact").wrong(problem)
        return self._named[version.artefact]

    def _brought(self, version: _Version, place: Place) -> Loadable:
        name, kind = name_of(version.source or ""), checkpoint_kind(version.task)
        numbered = (f"{name}-{number}" for number in count(2))
        for candidate in chain((name, f"{name}-{version.precision}"), numbered):
            loadable = checkpoint_artefact(candidate, version, kind, place)
            if self._named.setdefault(candidate, loadable) == loadable:
                return loadable
        raise InvariantBroken("numbers ran out")


def _refuse_source_fields(version: _Version, place: Place) -> None:
    usual = CheckpointFields()
    for name in CheckpointFields.__struct_fields__:
        if getattr(version, name) != getattr(usual, name):
            raise place.inside(name).wrong("belongs to the artefact that the version names")


def _given(name: str, raw: Any, place: Place) -> dict[str, _Version]:
    check_name(name, place)
    if not isinstance(raw, dict) or not raw:
        raise place.wrong("at least one version is needed, by its name")
    given = {
        version: convert(entry, _Version, place.inside(version)) for version, entry in raw.items()
    }
    for version, entry in given.items():
        check_name(version, place.inside(version))
        try:
            task_kinds(entry.task)
        except CannotLoad as error:
            raise place.inside(version, "task").wrong(error) from None
    marked = [version for version, entry in given.items() if entry.default]
    if len(marked) > 1:
        raise place.wrong(f"only one version may say `default: true`, not {', '.join(marked)}")
    return given


def _specs(
    name: str, given: Mapping[str, _Version], artefacts: _Artefacts, place: Place
) -> list[ModelSpec]:
    default = next(
        (version for version, entry in given.items() if entry.default), next(iter(given))
    )
    return [
        _spec(name, version, entry, artefacts, place.inside(version), is_default=version == default)
        for version, entry in given.items()
    ]


def _spec(
    name: str,
    version: str,
    given: _Version,
    artefacts: _Artefacts,
    place: Place,
    *,
    is_default: bool,
) -> ModelSpec:
    loadable = artefacts.of(given, place)
    try:
        task_info(given.task, loadable.kind)
    except CannotLoad as error:
        raise place.inside("task").wrong(error) from None
    return ModelSpec(
        name=name,
        version=version,
        task=given.task,
        artefact=loadable.artefact,
        runtime=loadable.runtime,
        kind=loadable.kind,
        description=given.description,
        runtime_options=loadable.runtime_options,
        task_options=given.task_options,
        task_files=_task_files(given, loadable.artefact, place.inside("task_files")),
        default_timeout_ms=given.default_timeout_ms,
        price=given.price.whole(),
        cache=given.cache,
        load=given.load,
        is_default=is_default,
    )


def _task_files(given: _Version, artefact: Artefact, place: Place) -> tuple[ModelFile, ...]:
    files = files_of_entry(given.task_files, place)
    taken = {file.role for file in artefact.files}
    for file in files:
        if file.role in taken:
            raise place.inside(file.role).wrong(
                f"the artefact has a file in the role {file.role!r}"
            )
    return files
