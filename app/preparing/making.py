"""What every maker is given: the job, the folders, and somebody to tell how far it is."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from app.core.errands import News, Tell
from app.preparing.job import PrepareJob
from app.preparing.tokenizing import load_tokenizer


@dataclass
class Making:
    """work: what libraries may read (workspace.py). out: where the result goes. total: steps."""

    job: PrepareJob
    out: Path
    work: Path
    tell: Tell
    total: int
    _done: int = field(default=0, init=False)

    def say(self, what: str) -> None:
        """A step begins."""
        self.tell(News(what, self._done, self.total))
        self._done += 1

    def draft(self, name: str) -> Path:
        """A new folder that is gone when all is done."""
        folder = self.work.parent / name
        folder.mkdir()
        return folder

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the checkpoint."""
        return load_tokenizer(self.work)
