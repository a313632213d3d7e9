"""What commit a tag or branch was last resolved to, kept in a store's `revisions/`.

So that a tag or branch that was served once can be served without the hub.
"""

from pathlib import Path

import structlog

from app.models.keys import key_of

_log = structlog.get_logger(__name__)


class Revisions:
    """Commits by the source that named them, `hf://owner/name@main`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def commit_of(self, source: str) -> str:
        """Empty where none is remembered."""
        try:
            return self._file(source).read_text(encoding="utf-8")
        except OSError:
            return ""

    def remember(self, source: str, commit: str) -> None:
        """Does without where the store cannot be written. A folder has no commit."""
        if not commit:
            return
        file = self._file(source)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(commit, encoding="utf-8")
        except OSError as error:
            _log.debug("revision_not_remembered", reason=str(error))

    def _file(self, source: str) -> Path:
        return self._folder / key_of([source])
