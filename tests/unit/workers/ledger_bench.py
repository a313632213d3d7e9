"""A ledger over workers without a process, and what became of every item."""

from app.core.types import Failed, Outcome, Usage
from app.workers.ledger import Ledger, Owed, Verdict
from app.workers.messages import ItemDone, WireItem


def done(item_id: int) -> ItemDone:
    return ItemDone(item_id, f"answer {item_id}", {}, 1, 0, 0.0, 0.0)


class Worker:
    """A process that nobody started: holds what it was sent until the test answers."""

    def __init__(self) -> None:
        self.items: dict[int, WireItem] = {}
        self.running: set[int] = set()
        self.cancelled: list[int] = []

    def submit(self, items: list[WireItem]) -> None:
        self.items |= {item.id: item for item in items}

    def cancel(self, ids: list[int]) -> None:
        self.cancelled += ids
        for item_id in ids:
            self.items.pop(item_id, None)


class Bench:
    """A ledger, its time, and what became of each item."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.now = 0.0
        self.outcomes: dict[int, list[Outcome]] = {}
        self.pieces: list[tuple[str, int]] = []
        self.used: list[Usage] = []
        self.worker: Worker | None = None

    def submit(
        self, timeout_s: float = 1000.0, version: str = "a:v1", *, stream: bool = False
    ) -> int:
        item_id = len(self.outcomes) + 1
        self.outcomes[item_id] = []
        item = WireItem(item_id, version, "", {}, timeout_s * 1000)
        on_piece = (
            (lambda piece: self.pieces.append((piece.text, piece.tokens))) if stream else None
        )
        on_used = self.used.append if stream else None
        settle = self.outcomes[item_id].append
        owed = Owed(item, self.now + timeout_s, settle, on_piece, on_used)
        self.ledger.accept(owed, self.now)
        return item_id

    def start(self) -> Worker:
        self.worker = Worker()
        self.ledger.attach(self.worker, self.now)
        return self.worker

    def crash(self, *inside: int) -> Verdict:
        self.worker = None
        return self.ledger.lost(inside)

    def kill(self, *inside: int) -> Verdict:
        """From outside."""
        self.worker = None
        return self.ledger.lost(inside, from_outside=True)

    def answer(self, item_id: int) -> None:
        if self.worker is not None:
            self.worker.items.pop(item_id)
        self.ledger.answered(done(item_id), self.now)

    def rest_in_groups(self) -> list[list[int]]:
        """Answer everything; what was in the worker together."""
        groups = []
        while self.open:
            worker = self.worker or self.start()
            groups.append(list(worker.items))
            for item_id in groups[-1]:
                self.answer(item_id)
        return groups

    @property
    def open(self) -> list[int]:
        return [i for i in self.outcomes if self.code(i) is None]

    def code(self, item_id: int) -> str | None:
        """None: not yet; ok, or an error's code. Twice is a failure."""
        outcomes = self.outcomes[item_id]
        assert len(outcomes) <= 1, f"item {item_id} has {outcomes}"
        if not outcomes:
            return None
        return outcomes[0].error.code if isinstance(outcomes[0], Failed) else "ok"
