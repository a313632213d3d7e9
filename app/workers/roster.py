"""Which of the versions that share a worker are wanted. No process, clock or wait: decisions only.

    wanted ---- unload ----> unloading ----> unloaded      load leads back to wanted at any time

An unloading version takes nothing new and keeps the worker as long as it owes an answer. Then it is
unloaded, at once where the worker stays for others, else when the worker has ended. The order that
came last counts; nothing is queued.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto


class Wish(Enum):
    """What was ordered for a version, and how far that is."""

    WANTED = auto()
    UNLOADING = auto()
    UNLOADED = auto()


class Roster:
    """versions: each with whether it is wanted from the start; owes: whether one has accepted what
    it has not answered."""

    def __init__(self, versions: Mapping[str, bool], owes: Callable[[str], bool]) -> None:
        self._wishes = {
            version: Wish.WANTED if is_wanted else Wish.UNLOADED
            for version, is_wanted in versions.items()
        }
        self._owes = owes
        self._asked_for: set[str] = set()

    def wish(self, version: str) -> Wish:
        return self._wishes[version]

    def wants(self, version: str) -> bool:
        return self._wishes[version] is Wish.WANTED

    def was_asked_for(self, version: str) -> bool:
        """Somebody has ordered it since the start: it is no part of the server's own start."""
        return version in self._asked_for

    @property
    def needs_worker(self) -> bool:
        return any(map(self._needs_worker, self._wishes))

    @property
    def is_unloading(self) -> bool:
        return Wish.UNLOADING in self._wishes.values()

    def load(self, version: str) -> None:
        self._wishes[version] = Wish.WANTED
        self._asked_for.add(version)
        self.settle()  # the worker stays: another that waits for its end need not

    def unload(self, version: str) -> None:
        if self._wishes[version] is Wish.WANTED:
            self._wishes[version] = Wish.UNLOADING
        self._asked_for.add(version)
        self.settle()

    def settle(self) -> None:
        """Something may have been answered: who owes nothing leaves, while the worker stays."""
        if self.needs_worker:
            self._unload_idle()

    def worker_gone(self) -> None:
        """No process holds the artefact any more."""
        self._unload_idle()

    def _unload_idle(self) -> None:
        for version, wish in self._wishes.items():
            if wish is Wish.UNLOADING and not self._owes(version):
                self._wishes[version] = Wish.UNLOADED

    def _needs_worker(self, version: str) -> bool:
        wish = self._wishes[version]
        return wish is Wish.WANTED or (wish is Wish.UNLOADING and self._owes(version))
