"""Checkpoints from a Hugging Face hub, in the client's own cache: this is the server's side.

The client lives in processes of its own (`python -m app.models.hub`, an errand), so that a
download can be ended at any moment and its library is in no serving process. HF_HOME, HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE and the like mean what they mean everywhere else.

    __init__.py   Hub: ask for a description, fetch the files that the plan needs
    __main__.py   the errand: one job, done with the client
    asking.py     what a repository holds, from the hub or from the cache
    fetching.py   one file after the other: resumed, verified, then published in the cache
    reasons.py    what went wrong, in words that somebody can act on
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.core.errands import News
from app.core.errors import CannotLoad, FileUnavailable, UnavailableForNow
from app.models.errands import Errands
from app.models.hub.jobs import Described, DescribeJob, FetchJob, HubFile, Job
from app.models.progress import Progress
from app.models.sources import HfSource
from app.preparing.plan.files import Listing, choose_files

_log = structlog.get_logger(__name__)
_CHILD_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the server shows its own
    # Plain HTTP can be resumed by a later process and needs no further library or cache.
    "HF_HUB_DISABLE_XET": "1",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a repository holds at a revision.

    files: path to bytes and hash; the hashes are empty where the cache answered. unreachable: why
    the hub could not be asked, None where it was; then only what the cache has is listed, and
    `folder` is where. passes: whether it may be asked later.
    """

    commit: str
    listing: Listing
    files: Mapping[str, HubFile]
    folder: Path | None = None
    unreachable: str | None = None
    passes: bool = False

    def refusal(self, source: HfSource, missing: CannotLoad) -> FileUnavailable:
        """Of what the cache has only a part of, while the hub cannot be asked."""
        kind = UnavailableForNow if self.passes else FileUnavailable
        return kind(
            f"checkpoint {source} is not available: {self.unreachable}; of the copy in "
            f"{self.folder}: {missing}"
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """Verified files below `folder`, the cache's snapshot of this commit."""

    folder: Path
    commit: str
    files: Mapping[str, HubFile]


class Hub:
    """`describe` and `fetch` block: call them from a thread. Stopping `errands` ends them.

    Both raise FileUnavailable that names the checkpoint, the reason and a remedy.
    """

    def __init__(self, errands: Errands, progress: Progress) -> None:
        self._errands = errands
        self._progress = progress

    def describe(self, source: HfSource) -> Description:
        """Downloads nothing but config.json."""
        job = DescribeJob(source.repo, source.revision)
        found = msgspec.convert(self._run(source, job, _log_news), Described)
        return Description(
            commit=found.commit,
            listing=Listing({path: file.bytes for path, file in found.files.items()}, found.config),
            files=found.files,
            folder=Path(found.folder) if found.folder else None,
            unreachable=found.unreachable or None,
            passes=found.passes,
        )

    def fetch(self, source: HfSource, *, allow_pickle: bool) -> Fetched:
        """The files that `choose_files` names. Raises CannotLoad where it finds none to use."""
        description = self.describe(source)
        try:
            choice = choose_files(description.listing, allow_pickle=allow_pickle)
        except CannotLoad as refusal:
            if description.unreachable is None:
                raise CannotLoad(f"checkpoint {source} cannot be used: {refusal}") from refusal
            raise description.refusal(source, refusal) from refusal
        files = {path: description.files[path] for path in choice.paths}
        if description.folder is not None:  # the hub was not there, and the cache has it all
            return Fetched(description.folder, description.commit, files)
        job = FetchJob(source.repo, source.revision, description.commit, files)
        with self._progress.transfer(str(source)) as moved:

            def tell(news: News) -> None:
                if news.unit == "bytes":
                    moved(news.done, news.total)
                else:
                    _log_news(news)

            folder = Path(self._run(source, job, tell))
        return Fetched(folder, description.commit, files)

    def _run(self, source: HfSource, job: Job, tell: Callable[[News], None]) -> Any:
        environment = os.environ | _CHILD_ENVIRONMENT
        try:
            return self._errands.run(__name__, job, tell, environment)
        except CannotLoad as error:
            raise FileUnavailable(f"checkpoint {source} is not available: {error}") from error


def _log_news(news: News) -> None:
    _log.info("hub", what=news.what)
