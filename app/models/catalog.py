"""A catalog file: which versions exist. YAML in, checked, `ModelSpec`s out.

An artefact (files and the runtime that loads them) is declared once and named by the versions
that use it, so that those share one worker. docs/catalog.md explains every field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

from app.core.errors import CannotLoad, ConfigurationError
from app.models.sources import FileSource, PypiSource, parse_source
from app.models.spec import NAME, Artefact, ModelFile, ModelSpec
from app.runtimes.catalogue import RUNTIMES
from app.tasks.catalogue import task_info

CATALOGS = Path(__file__).parent / "catalogs"

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Positive = Annotated[int, msgspec.Meta(gt=0)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]
_Entries = dict[str, Any]
_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    sha256: _Sha256
    size_bytes: _Positive
    package_sha256: _Sha256 | None = None


class _Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: _Entries
    runtime: str
    runtime_options: _Entries = {}
    license: str = ""
    origin: str = ""


class _Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    task: str
    artefact: str
    description: str = ""
    task_options: _Entries = {}
    task_files: _Entries = {}
    default_timeout_ms: _Milliseconds = 30_000
    default: bool = False


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    artefacts: _Entries
    models: _Entries


_Struct = TypeVar("_Struct", _File, _Artefact, _Version, _Document)


@dataclass(frozen=True, slots=True)
class _Loadable:
    """An artefact with the runtime that loads it."""

    artefact: Artefact
    runtime: str
    runtime_options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the catalog we are, for messages."""

    catalog: Path
    at: str = ""

    def inside(self, *names: str) -> "_Place":
        return _Place(self.catalog, ".".join(filter(None, (self.at, *names))))

    def wrong(self, problem: object) -> ConfigurationError:
        where = f" {self.at}:" if self.at else ""
        return ConfigurationError(f"catalog {self.catalog}:{where} {problem}")


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
    place = _Place(path)
    document = _convert(_read(place), _Document, place)
    loadables = {
        name: _loadable(name, raw, place.inside("artefacts", name))
        for name, raw in document.artefacts.items()
    }
    if not document.models:
        raise place.inside("models").wrong("at least one model is needed")
    return tuple(
        spec
        for name, versions in document.models.items()
        for spec in _versions(name, versions, loadables, place.inside("models", name))
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice (the later would silently win) or read as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                raise yaml.MarkedYAMLError(
                    problem=f"names must be text: put {key.value} in quotes",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def _read(place: _Place) -> Any:
    try:
        # A subclass of SafeLoader: it builds plain data only.
        return yaml.load(place.catalog.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise place.wrong(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise place.wrong("is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise place.wrong(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise place.wrong(f"is not YAML: {' '.join(str(error).split())}") from error


def _convert(raw: Any, struct: type[_Struct], place: _Place) -> _Struct:
    try:
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        if "unknown field" in problem:
            problem += f"; known fields: {', '.join(struct.__struct_fields__)}"
        if "matching regex" in problem:
            problem = "must be 64 hexadecimal digits in lower case"
        if problem.startswith("Expected `str`, got"):
            problem += "; put it in quotes"
        raise place.inside(path.rstrip("`")).wrong(problem) from None


def _loadable(name: str, raw: Any, place: _Place) -> _Loadable:
    _check_name(name, place)
    given = _convert(raw, _Artefact, place)
    if given.runtime not in RUNTIMES:
        known = ", ".join(sorted(RUNTIMES))
        raise place.inside("runtime").wrong(f"unknown runtime {given.runtime!r}; known: {known}")
    if not given.files:
        raise place.inside("files").wrong("at least one file is needed")
    files = _files(given.files, place.inside("files"))
    artefact = Artefact(name, files, license=given.license, origin=given.origin)
    return _Loadable(artefact, given.runtime, given.runtime_options)


def _files(raw: _Entries, place: _Place) -> tuple[ModelFile, ...]:
    return tuple(_file(role, entry, place.inside(role)) for role, entry in raw.items())


def _file(role: str, raw: Any, place: _Place) -> ModelFile:
    _check_name(role, place)
    given = _convert(raw, _File, place)
    try:
        source = parse_source(given.source)
    except ConfigurationError as error:
        raise place.inside("source").wrong(error) from None
    text = given.source
    match source:
        case PypiSource() if given.package_sha256 is None:
            raise place.inside("package_sha256").wrong("is required with a pypi:// source")
        case FileSource() if given.package_sha256 is not None:
            raise place.inside("package_sha256").wrong("is for pypi:// sources only")
        case FileSource(path):  # from here on it means the same in every folder
            text = f"file://{(place.catalog.absolute().parent / path).resolve()}"
    return ModelFile(role, text, given.sha256, given.size_bytes, given.package_sha256)


def _versions(
    name: str, raw: Any, loadables: Mapping[str, _Loadable], place: _Place
) -> list[ModelSpec]:
    _check_name(name, place)
    if not isinstance(raw, dict) or not raw:
        raise place.wrong("at least one version is needed, by its name")
    given = {
        version: _convert(entry, _Version, place.inside(version)) for version, entry in raw.items()
    }
    marked = [version for version, entry in given.items() if entry.default]
    if len(marked) > 1:
        raise place.wrong(f"only one version may say `default: true`, not {', '.join(marked)}")
    default = next(iter(marked or given))
    return [
        _spec(name, version, entry, loadables, place.inside(version), is_default=version == default)
        for version, entry in given.items()
    ]


def _spec(
    name: str,
    version: str,
    given: _Version,
    loadables: Mapping[str, _Loadable],
    place: _Place,
    *,
    is_default: bool,
) -> ModelSpec:
    _check_name(version, place)
    try:
        task_info(given.task)
    except CannotLoad as error:
        raise place.inside("task").wrong(error) from None
    if given.artefact not in loadables:
        known = ", ".join(sorted(loadables)) or "none"
        problem = f"unknown artefact {given.artefact!r}; declared: {known}"
        raise place.inside("artefact").wrong(problem)
    loadable = loadables[given.artefact]
    return ModelSpec(
        name=name,
        version=version,
        task=given.task,
        artefact=loadable.artefact,
        runtime=loadable.runtime,
        description=given.description,
        runtime_options=loadable.runtime_options,
        task_options=given.task_options,
        task_files=_task_files(given, loadable.artefact, place.inside("task_files")),
        default_timeout_ms=given.default_timeout_ms,
        is_default=is_default,
    )


def _task_files(given: _Version, artefact: Artefact, place: _Place) -> tuple[ModelFile, ...]:
    files = _files(given.task_files, place)
    taken = {file.role for file in artefact.files}
    for file in files:
        if file.role in taken:
            raise place.inside(file.role).wrong(
                f"the artefact has a file in the role {file.role!r}"
            )
    return files


def _check_name(name: str, place: _Place) -> None:
    if not NAME.fullmatch(name):
        raise place.wrong(
            f"the name {name!r} is not allowed: 1 to 128 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
