"""Orders to load and unload, in every order among requests, answers and crashes."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.errors import ModelUnavailable
from app.workers.roster import Roster, Wish
from tests.unit.workers.ledger_bench import Bench

A, B = "a:v1", "b:v1"


class Owing:
    """Which versions owe answers, by the word of the test."""

    def __init__(self, *versions: str) -> None:
        self.versions = set(versions)

    def __call__(self, version: str) -> bool:
        return version in self.versions


def wishes(roster: Roster) -> list[Wish]:
    return [roster.wish(A), roster.wish(B)]


def test_version_that_owes_nothing_leaves_at_once_while_the_worker_stays_for_another():
    roster = Roster({A: True, B: True}, Owing())
    roster.unload(A)
    assert wishes(roster) == [Wish.UNLOADED, Wish.WANTED]
    assert roster.needs_worker


def test_version_that_owes_answers_leaves_when_it_has_given_them():
    owing = Owing(A)
    roster = Roster({A: True, B: True}, owing)
    roster.unload(A)
    assert roster.wish(A) is Wish.UNLOADING
    owing.versions.clear()
    roster.settle()
    assert roster.wish(A) is Wish.UNLOADED


def test_last_version_is_unloaded_only_when_its_worker_is_gone():
    roster = Roster({A: True, B: False}, Owing())
    roster.unload(A)
    assert not roster.needs_worker
    assert roster.wish(A) is Wish.UNLOADING
    roster.worker_gone()
    assert wishes(roster) == [Wish.UNLOADED] * 2


def test_worker_stays_for_answers_alone():
    roster = Roster({A: True, B: False}, Owing(A))
    roster.unload(A)
    assert roster.needs_worker


def test_load_during_an_unload_wins_and_so_does_the_reverse():
    roster = Roster({A: True, B: False}, Owing(A))
    roster.unload(A)
    roster.load(A)
    assert roster.wants(A)
    roster.load(B)
    roster.unload(B)
    assert roster.wish(B) is Wish.UNLOADED


def test_unloading_what_is_unloaded_changes_nothing():
    roster = Roster({A: False, B: True}, Owing())
    roster.unload(A)
    assert roster.wish(A) is Wish.UNLOADED


def test_only_what_somebody_ordered_was_asked_for():
    roster = Roster({A: False, B: True}, Owing())
    roster.load(A)
    assert (roster.was_asked_for(A), roster.was_asked_for(B)) == (True, False)


def test_load_of_one_ends_the_unload_of_another_that_waits_for_the_worker():
    """It waited on, although the worker it was to be the last of stayed."""
    roster = Roster({A: False, B: True}, Owing())
    roster.unload(B)
    roster.load(A)
    assert wishes(roster) == [Wish.WANTED, Wish.UNLOADED]


class Control(RuleBasedStateMachine):
    """A worker is started, crashes and is ended as a supervisor does it; requests come and go."""

    versions = st.sampled_from([A, B])

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.roster = Roster({A: True, B: False}, self.bench.ledger.owes)
        self.last = {A: "load", B: "unload"}
        self.version_of: dict[int, str] = {}
        self.has_process = self.has_loaded = False

    def is_up(self) -> bool:
        return self.bench.worker is not None

    def has_sent(self) -> bool:
        return self.bench.worker is not None and bool(self.bench.worker.items)

    def may_start(self) -> bool:
        return self.roster.needs_worker and not self.is_up()

    def must_end(self) -> bool:
        return not self.roster.needs_worker and (self.has_process or self.roster.is_unloading)

    @rule(version=versions)
    def load(self, version: str) -> None:
        self.roster.load(version)
        self.last[version] = "load"

    @rule(version=versions)
    def unload(self, version: str) -> None:
        self.roster.unload(version)
        self.last[version] = "unload"

    @rule(version=versions)
    def submit(self, version: str) -> None:
        """What a worker has loaded for is held while it restarts; else nothing is taken."""
        if self.roster.wants(version) and self.has_loaded:
            self.version_of[self.bench.submit(version=version)] = version

    @rule()
    @precondition(may_start)
    def start(self) -> None:
        self.has_process = self.has_loaded = True
        self.bench.start()

    @rule(data=st.data())
    @precondition(has_sent)
    def answer(self, data: st.DataObject) -> None:
        assert self.bench.worker is not None
        self.bench.answer(data.draw(st.sampled_from(sorted(self.bench.worker.items))))
        self.roster.settle()

    @rule(data=st.data())
    @precondition(has_sent)
    def crash(self, data: st.DataObject) -> None:
        assert self.bench.worker is not None
        inside = data.draw(st.sets(st.sampled_from(sorted(self.bench.worker.items))))
        self.bench.crash(*inside)
        self.roster.settle()

    @rule(version=versions)
    def patience_ends(self, version: str) -> None:
        if self.roster.wish(version) is Wish.UNLOADING:
            self.bench.ledger.fail(
                lambda owing: ModelUnavailable("unloaded") if owing == version else None
            )
            self.roster.settle()

    @rule()
    @precondition(must_end)
    def end(self) -> None:
        assert self.bench.open == [], "a worker was ended that owed an answer"
        if self.is_up():
            self.bench.crash()
        self.has_process = self.has_loaded = False
        self.roster.worker_gone()

    @invariant()
    def unloaded_versions_owe_nothing(self) -> None:
        for version in (A, B):
            if self.roster.wish(version) is Wish.UNLOADED:
                assert not self.bench.ledger.owes(version)

    @invariant()
    def last_order_counts(self) -> None:
        for version, order in self.last.items():
            assert self.roster.wants(version) == (order == "load")

    @invariant()
    def worker_is_kept_for_what_is_open(self) -> None:
        assert self.roster.needs_worker or not self.bench.open

    def teardown(self) -> None:
        """Left alone, everything comes to what was ordered last."""
        while self.bench.open:
            self.bench.worker or self.bench.start()
            assert self.bench.worker is not None
            self.bench.ledger.idle(self.bench.now)  # for who left in the middle of his trial
            self.bench.answer(min(self.bench.worker.items))
            self.roster.settle()
        if self.must_end():
            self.end()
        for version, order in self.last.items():
            wanted = Wish.WANTED if order == "load" else Wish.UNLOADED
            assert self.roster.wish(version) is wanted
        assert all(self.bench.code(item) is not None for item in self.version_of)


Control.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_every_order_of_events_ends_as_the_last_orders_say = Control.TestCase
