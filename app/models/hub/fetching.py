"""Brings files into the client's cache, one after the other.

A file is downloaded to `blobs/<hash>.incomplete`, from where a later process goes on if this one
is ended; it is checked there, and only then published as `blobs/<hash>`. The client links it into
the snapshot. (Left to itself, the client forgets what an ended process had, and checks no hash.)
"""

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import IO, BinaryIO, cast

import httpx
from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
)

from app.core.errands import News, Tell
from app.core.errors import UnavailableForNow
from app.models.hub.asking import cache_folder
from app.models.hub.jobs import FetchJob, HubFile
from app.models.hub.reasons import Subject, in_words, patiently, reason_of

# What a broken connection costs at most; the client's own 10 MiB would be lost each time.
CHUNK_BYTES = 2**17
NEWS_EVERY_S = 0.2
SPARE_BYTES = 50_000_000  # of the disk, for links, locks and everybody else
_RANGE_NOT_SATISFIABLE = 416
# After one of these the client has gone on by itself until nothing came five times in a row.
_RESUMED_BY_THE_CLIENT = (httpx.ConnectError, httpx.TimeoutException, httpx.RemoteProtocolError)


def fetch(job: FetchJob, tell: Tell) -> Path:
    """The snapshot's folder, with every file of the job. Raises FileUnavailable."""
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    tally = _Tally(sum(file.bytes for file in job.files.values()), tell)
    folder = cache_folder(job.repo) / "snapshots" / job.commit
    with in_words(Subject(job.repo, job.revision)):
        missing = {path: file for path, file in job.files.items() if not _has(job, path, file)}
        _check_space(job, missing)
    for path, file in job.files.items():
        if path in missing:
            with in_words(Subject(job.repo, job.revision, path)):
                _bring(job, path, file, tally)
                _publish(job, path, file, tell)
        tally.add(file.bytes)
    with in_words(Subject(job.repo, job.revision)):
        _note_revision(job, tell)
    return folder


class _Tally:
    """Tells how many bytes of the whole are there, not more often than anybody looks."""

    def __init__(self, total_bytes: int, tell: Tell) -> None:
        self.tell = tell
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._told_at = 0.0

    def add(self, file_bytes: int) -> None:
        """A whole file is there."""
        self._done_bytes += file_bytes
        self._say("")

    def within(self, path: str, file_bytes: int) -> None:
        if time.monotonic() - self._told_at >= NEWS_EVERY_S:
            self._say(path, file_bytes)

    def _say(self, what: str, more_bytes: int = 0) -> None:
        self._told_at = time.monotonic()
        self.tell(News(what, self._done_bytes + more_bytes, self._total_bytes, "bytes"))


class _Watched:
    """The file that the client writes to, with a look at how far it is."""

    def __init__(self, out: IO[bytes], path: str, tally: _Tally) -> None:
        self._out, self._path, self._tally = out, path, tally
        self.tell, self.seek, self.truncate = out.tell, out.seek, out.truncate

    def write(self, chunk: bytes) -> int:
        written = self._out.write(chunk)
        self._tally.within(self._path, self._out.tell())
        return written


def _has(job: FetchJob, path: str, file: HubFile) -> bool:
    """Whether the cache has the right file. A wrong one is removed."""
    cached = try_to_load_from_cache(job.repo, path, revision=job.commit)
    if not isinstance(cached, str):
        return False
    if _is_right(Path(cached), file):
        return True
    _remove(Path(cached))
    return False


def _is_right(path: Path, file: HubFile) -> bool:
    return path.stat().st_size == file.bytes and _digest(path, file) == file.digest


def _digest(path: Path, file: HubFile) -> str:
    if not file.digest:
        return ""
    # git's name of a file is no pin against forgery, only a check against damage.
    name = "sha256" if file.sha256 else "sha1"
    digest = hashlib.new(name, usedforsecurity=bool(file.sha256))
    if file.git_sha1:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    """A file of the snapshot, and the blob that it leads to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _check_space(job: FetchJob, missing: dict[str, HubFile]) -> None:
    blobs = cache_folder(job.repo) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    needed = sum(file.bytes - _size(_incomplete(blobs, file)) for file in missing.values())
    free = shutil.disk_usage(blobs).free
    if missing and needed + SPARE_BYTES > free:
        raise UnavailableForNow(
            f"{_human(needed)} are still to be downloaded to {constants.HF_HUB_CACHE}, and "
            f"{_human(free)} are free there: free some space, or set HF_HOME to a larger disk"
        )


def _bring(job: FetchJob, path: str, file: HubFile, tally: _Tally) -> None:
    """Put the verified file among the cache's blobs. What a hub gives no hash for is not ours."""
    if not file.digest:
        return
    blobs = cache_folder(job.repo) / "blobs"
    blob, draft = blobs / file.digest, _incomplete(blobs, file)
    # The lock of the client: nobody else may be writing this file.
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / cache_folder(job.repo).name
    locks.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(locks / f"{file.digest}.lock"):
        if blob.exists():
            if _is_right(blob, file):
                return
            blob.unlink()
        _download_all(job, path, file, draft, tally)
        if not _is_right(draft, file):
            found = f"{_size(draft)} bytes and hash {_digest(draft, file)}"
            draft.unlink(missing_ok=True)
            raise UnavailableForNow(
                f"{path} came with {found}, not {file.bytes} bytes and hash {file.digest}: it was "
                "changed or damaged on the way and has been removed; try again, and if it stays so "
                "check HF_ENDPOINT and proxies"
            )
        os.replace(draft, blob)


def _download_all(job: FetchJob, path: str, file: HubFile, draft: Path, tally: _Tally) -> None:
    """Until the end, or until the hub gives nothing more. What came stays in the draft."""
    while True:
        before = _size(draft)
        try:
            patiently(lambda: _download(job, path, file, draft, tally), tally.tell)
            return
        except httpx.TransportError as error:
            if _size(draft) <= before:
                raise _broken_off(job, path, file, draft, error) from error


def _broken_off(
    job: FetchJob, path: str, file: HubFile, draft: Path, error: Exception
) -> UnavailableForNow:
    reason = reason_of(error, Subject(job.repo, job.revision, path))
    return UnavailableForNow(
        f"the download of {path} broke off after {_size(draft)} of {file.bytes} bytes, and the "
        f"next try goes on from there: {reason}"
    )


def _download(job: FetchJob, path: str, file: HubFile, draft: Path, tally: _Tally) -> None:
    """Once, from where the draft ends."""
    if _size(draft) > file.bytes:
        draft.unlink()
    try:
        with draft.open("ab") as out:
            http_get(
                hf_hub_url(job.repo, path, revision=job.commit),
                cast(BinaryIO, _Watched(out, path, tally)),
                resume_size=_size(draft),
                headers=build_hf_headers(),
                expected_size=file.bytes,
                displayed_filename=path,
            )
            out.flush()
            os.fsync(out.fileno())
    except _RESUMED_BY_THE_CLIENT as error:
        raise _broken_off(job, path, file, draft, error) from error
    except HfHubHTTPError as error:
        if error.response.status_code != _RANGE_NOT_SATISFIABLE or not _size(draft):
            raise
        draft.unlink()  # what it has is not the beginning of this file
        _download(job, path, file, draft, tally)
    except OSError as error:
        if error.errno is not None:
            raise
        # The client counted other than file.bytes: _bring says what came instead.


def _publish(job: FetchJob, path: str, file: HubFile, tell: Tell) -> None:
    """Let the client link the blob into the snapshot (or bring what has no hash)."""
    linked = Path(patiently(lambda: hf_hub_download(job.repo, path, revision=job.commit), tell))
    if linked.stat().st_size != file.bytes:
        found = linked.stat().st_size
        _remove(linked)
        raise UnavailableForNow(f"{path} came with {found} bytes, not {file.bytes}; try again")


def _note_revision(job: FetchJob, tell: Tell) -> None:
    """Let the client note what commit a tag or branch means, for when the hub is not there."""
    if job.revision == job.commit or (cache_folder(job.repo) / "refs" / job.revision).exists():
        return
    first = next(iter(job.files))
    patiently(lambda: hf_hub_download(job.repo, first, revision=job.revision), tell)


def _incomplete(blobs: Path, file: HubFile) -> Path:
    return blobs / f"{file.digest or 'none'}.incomplete"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _human(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
