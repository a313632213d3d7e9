"""What is owed, in every order of events: exactly one outcome per item, and its own."""

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.errors import ModelUnavailable
from app.core.types import Answer, Done, Failed, Piece, Timings, Usage
from app.workers.ledger import Verdict
from app.workers.messages import ItemFailed, Used
from tests.unit.workers.ledger_bench import Bench, Worker, done


def test_what_only_waited_when_a_worker_died_is_simply_sent_again_with_the_time_left():
    bench = Bench()
    bench.start()
    running, waited = bench.submit(), bench.submit(timeout_s=10)
    bench.now = 4.0
    bench.crash(running)
    bench.now = 7.0
    second = bench.start()
    assert list(second.items) == [running]
    bench.answer(running)
    assert second.items[waited].timeout_ms == 3000
    bench.answer(waited)
    assert [bench.code(i) for i in (running, waited)] == ["ok", "ok"]


def test_suspects_are_tried_in_groups_with_nobody_beside_them():
    bench = Bench()
    bench.start()
    ids = [bench.submit() for _ in range(8)]
    behind = bench.submit()
    bench.crash(*ids)
    worker = bench.start()
    new = bench.submit()
    groups = []
    while behind not in worker.items:
        groups.append(list(worker.items))
        for item_id in groups[-1]:
            assert new not in worker.items
            bench.answer(item_id)
    assert groups == [ids[:2], ids[2:4], ids[4:6], ids[6:]]
    assert list(worker.items) == [behind, new]


def test_group_that_dies_is_tried_again_in_smaller_ones_after_the_others():
    bench = Bench()
    bench.start()
    ids = [bench.submit() for _ in range(8)]
    bench.crash(*ids)
    bench.start()
    assert bench.crash(*ids[:2]) == Verdict(by_trial=True)
    assert bench.rest_in_groups() == [ids[2:4], ids[4:6], ids[6:], ids[:1], ids[1:2]]


def test_who_only_waited_in_a_group_that_died_is_not_to_blame_but_still_suspect():
    bench = Bench()
    bench.start()
    ids = [bench.submit() for _ in range(16)]
    bench.crash(*ids)
    bench.start()
    bench.crash(ids[0])  # beside three that had not begun: one of them may have been read
    assert bench.rest_in_groups() == [ids[4:8], ids[8:12], ids[12:], ids[1:4], ids[:1]]


@pytest.mark.parametrize("at", [0, 13, 31])
def test_poison_among_many_costs_a_logarithm_of_deaths_and_nobody_else(at):
    bench = Bench()
    bench.start()
    ids = [bench.submit() for _ in range(32)]
    bench.crash(*ids)
    deaths = 1
    while bench.open:
        worker = bench.start() if bench.worker is None else bench.worker
        if ids[at] in worker.items:
            deaths += 1
            bench.crash(*worker.items)
        else:
            bench.answer(next(iter(worker.items)))
    assert deaths <= math.log2(32) + 2
    assert [bench.code(i) for i in ids] == [
        "poison_input" if index == at else "ok" for index in range(32)
    ]


def test_poison_is_refused_after_its_second_crash_and_takes_nobody_with_it():
    bench = Bench()
    bench.start()
    poison, mate, behind = (bench.submit() for _ in range(3))
    assert bench.crash(poison, mate) == Verdict()
    bench.start()
    assert bench.crash(poison) == Verdict(by_trial=True, explained=1)
    assert bench.code(poison) == "poison_input"
    worker = bench.start()
    assert list(worker.items) == [mate]
    bench.answer(mate)
    bench.answer(behind)
    assert [bench.code(i) for i in (mate, behind)] == ["ok", "ok"]


def test_kill_from_outside_makes_no_suspects_and_everything_is_sent_again_at_once():
    bench = Bench()
    bench.start()
    ids = [bench.submit() for _ in range(4)]
    for _ in range(2):
        assert bench.kill(*ids[:2]) == Verdict()
        assert list(bench.start().items) == ids


def test_kill_from_outside_during_a_trial_repeats_it_and_convicts_nobody():
    bench = Bench()
    bench.start()
    suspect, behind = bench.submit(), bench.submit()
    bench.crash(suspect)
    for _ in range(3):
        assert list(bench.start().items) == [suspect]
        assert bench.kill(suspect) == Verdict(by_trial=True)
    assert bench.rest_in_groups() == [[suspect], [behind]]


def test_item_that_ends_its_workers_as_people_would_is_refused_in_the_end():
    bench = Bench()
    bench.start()
    poison, mate = bench.submit(), bench.submit()
    verdicts = []
    while poison in bench.open:
        worker = bench.worker or bench.start()
        if poison in worker.items:
            verdicts.append(bench.kill(*worker.items))
        else:
            bench.answer(mate)
    cut_short = [Verdict(by_trial=True)] * 3
    assert verdicts == [Verdict()] * 3 + cut_short + [Verdict(by_trial=True, explained=3)]
    assert bench.code(poison) == "poison_input"
    assert bench.rest_in_groups() == [[mate]]


def test_item_that_only_waits_may_do_so_through_any_number_of_kills():
    bench = Bench()
    bench.start()
    waits = bench.submit()
    for _ in range(10):
        bench.kill(bench.submit())
        bench.start()
    assert waits in bench.open
    assert bench.rest_in_groups()[0][0] == waits


def test_where_nothing_was_known_to_run_everything_inside_is_suspect():
    """It may have died of a text that was being tokenised."""
    bench = Bench()
    bench.start()
    poison, mate = bench.submit(), bench.submit()
    bench.crash()
    assert list(bench.start().items) == [poison]
    assert bench.crash().explained == 0  # before it ran
    worker = bench.start()
    bench.answer(mate)
    assert list(worker.items) == [poison]
    assert bench.crash().explained == 1
    assert bench.code(poison) == "poison_input"


def test_whoever_waited_through_two_crashes_is_suspect_too():
    bench = Bench()
    bench.start()
    first, waits = bench.submit(), bench.submit()
    bench.crash(first)
    bench.start()
    bench.answer(first)
    other = bench.submit()
    bench.crash(other)
    worker = bench.start()
    assert list(worker.items) == [waits]
    bench.answer(waits)
    assert list(worker.items) == [other]


def test_who_leaves_his_trial_is_waited_for_until_the_worker_runs_nothing():
    """Else the next one would be blamed for what his item still does."""
    bench = Bench()
    bench.start()
    gone, next_one = bench.submit(), bench.submit()
    bench.crash(gone, next_one)
    worker = bench.start()
    bench.ledger.leave(gone)
    assert worker.cancelled == [gone]
    assert not worker.items
    bench.ledger.idle(bench.now)
    assert list(worker.items) == [next_one]


def test_death_in_the_trial_of_one_who_left_is_nobody_elses_fault():
    bench = Bench()
    bench.start()
    gone, next_one = bench.submit(), bench.submit()
    bench.crash(gone, next_one)
    bench.start()
    bench.ledger.expire(gone)
    bench.crash(gone)
    bench.start()
    bench.answer(next_one)
    assert [bench.code(i) for i in (gone, next_one)] == ["deadline_exceeded", "ok"]


def test_deadline_that_passed_between_two_workers_is_told_and_nothing_is_sent():
    bench = Bench()
    late, fine = bench.submit(timeout_s=1), bench.submit()
    bench.now = 1.0
    assert list(bench.start().items) == [fine]
    assert bench.code(late) == "deadline_exceeded"


def test_nothing_is_sent_to_a_worker_that_is_being_ended():
    bench = Bench()
    worker = bench.start()
    before = bench.submit()
    bench.ledger.detach()
    after = bench.submit()
    assert list(worker.items) == [before]
    bench.crash(before)
    worker = bench.start()
    bench.answer(before)
    assert list(worker.items) == [after]


def test_items_of_a_version_that_is_refused_fail_and_others_stay():
    bench = Bench()
    refused, fine = bench.submit(version="b:v1"), bench.submit()
    bench.ledger.fail(lambda version: ModelUnavailable() if version == "b:v1" else None)
    assert bench.code(refused) == "model_unavailable"
    assert list(bench.start().items) == [fine]


class Owing(RuleBasedStateMachine):
    """Submit, run, answer, refuse, leave, expire, crash, restart, give up, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.crashes: Counter[int] = Counter()  # of workers that were running the item
        self.kills: Counter[int] = Counter()  # of those, from outside
        self.left: set[int] = set()
        self.expired: set[int] = set()
        self.failed: set[int] = set()
        self.beside_trial: set[int] = set()

    @property
    def open(self) -> list[int]:
        return self.bench.open

    @property
    def worker(self) -> Worker:
        assert self.bench.worker is not None
        return self.bench.worker

    def is_up(self) -> bool:
        return self.bench.worker is not None

    def has_sent(self) -> bool:
        return self.bench.worker is not None and bool(self.bench.worker.items)

    def runs(self) -> bool:
        return self.bench.worker is not None and bool(self.bench.worker.running)

    @rule(timeout_s=st.sampled_from([1.0, 5.0, 1000.0]))
    def submit(self, timeout_s):
        self.bench.submit(timeout_s)

    @precondition(has_sent)
    @rule(data=st.data())
    def begin(self, data):
        batch = data.draw(st.sets(st.sampled_from(sorted(self.worker.items)), min_size=1))
        self.worker.running |= batch

    @precondition(runs)
    @rule(data=st.data(), is_refused=st.booleans())
    def end(self, data, is_refused):
        """A run ends; the answer goes out if anybody is left to hear it."""
        item_id = data.draw(st.sampled_from(sorted(self.worker.running)))
        self.worker.running.discard(item_id)
        if not self.worker.running:
            self.bench.ledger.idle(self.bench.now)
        if self.worker.items.pop(item_id, None):
            reply = ItemFailed(item_id, "internal", "") if is_refused else done(item_id)
            self.bench.ledger.answered(reply, self.bench.now)

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data())
    def leave(self, data):
        item_id = data.draw(st.sampled_from(self.open))
        self.left.add(item_id)
        self.bench.ledger.leave(item_id)

    @rule(seconds=st.sampled_from([0.5, 4.0]))
    def pass_time(self, seconds):
        self.bench.now += seconds
        for item_id in self.open:
            owed = self.bench.ledger._owed[item_id]
            if owed.deadline <= self.bench.now:
                self.expired.add(item_id)
                self.bench.ledger.expire(item_id)

    @precondition(is_up)
    @rule()
    def crash(self):
        inside = set(self.worker.running)
        before = set(self.open)
        self.crashes.update(inside)
        sent = set(self.worker.items)
        self.bench.crash(*inside)
        convicted = before - set(self.open)
        assert len(convicted) <= 1
        for item_id in convicted:
            assert self.bench.code(item_id) == "poison_input"
            assert sent == {item_id}, "it was blamed for a crash beside others"
            assert inside <= {item_id}, "it was blamed for what one who left still ran"

    @precondition(is_up)
    @rule()
    def kill(self):
        """From outside: of those who ran, only who was inside too often may be blamed."""
        inside, before, sent = set(self.worker.running), set(self.open), set(self.worker.items)
        self.kills.update(inside or sent)
        self.bench.kill(*inside)
        for item_id in before - set(self.open):
            assert self.bench.code(item_id) == "poison_input"
            assert self.kills[item_id] > 6
            assert sent == {item_id} and inside <= {item_id}

    @precondition(lambda self: not self.is_up())
    @rule()
    def restart(self):
        self.bench.start()

    @precondition(lambda self: not self.is_up())
    @rule()
    def give_up(self):
        self.failed |= set(self.open)
        self.bench.ledger.fail(lambda _: ModelUnavailable())

    @rule(item_id=st.integers(1, 20))
    def answer_late(self, item_id):
        """Of what is not owed any more, or of a cancelled item whose answer was on its way."""
        if item_id in self.bench.outcomes and item_id not in self.open:
            self.bench.ledger.answered(done(item_id), self.bench.now)

    @invariant()
    def everything_is_owed_or_has_its_own_one_outcome(self):
        assert len(self.bench.ledger) == len(self.open)
        for item_id, outcomes in self.bench.outcomes.items():
            code = self.bench.code(item_id)
            if code == "ok":
                assert isinstance(outcomes[0], Done)
                assert outcomes[0].answer.value == f"answer {item_id}"
            if code == "deadline_exceeded":
                assert item_id in self.expired
            if code == "cancelled":
                assert item_id in self.left
            if code == "model_unavailable":
                assert item_id in self.failed

    @invariant()
    def suspects_run_with_nobody_else_beside_them(self):
        if self.is_up():
            items = set(self.worker.items) | self.worker.running
            suspects = {i for i in self.worker.items if self.crashes[i]}
            assert not suspects or items == {i for i in items if self.crashes[i]}

    @invariant()
    def a_worker_that_is_up_and_idle_leaves_nobody_waiting(self):
        if self.is_up() and not self.worker.running and not self.worker.items:
            self.bench.ledger.idle(self.bench.now)
            assert bool(self.worker.items) == bool(self.open)

    def teardown(self):
        """With a worker that behaves, everything comes to an end."""
        if not self.is_up():
            self.bench.start()
        for _ in range(2 * len(self.bench.outcomes) + 1):
            self.worker.running.clear()
            self.bench.ledger.idle(self.bench.now)
            for item_id in list(self.worker.items):
                self.bench.answer(item_id)
        assert not self.open
        assert all(self.bench.outcomes.values())


Owing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_every_order_of_events_ends_each_item_once = Owing.TestCase


def test_stream_that_has_begun_ends_with_its_worker():
    bench = Bench()
    begun, waits, plain = bench.submit(stream=True), bench.submit(stream=True), bench.submit()
    bench.start()
    bench.ledger.wrote(begun, Piece("Once", 1))
    bench.crash(begun)
    successor = bench.start()

    (outcome,) = bench.outcomes[begun]
    assert isinstance(outcome, Failed) and outcome.error.code == "model_unavailable"
    assert bench.pieces == [("Once", 1)]
    assert successor.items.keys() == {waits, plain}


def test_stream_that_has_not_begun_is_run_again_by_the_next_worker():
    bench = Bench()
    item = bench.submit(stream=True)
    bench.start()
    bench.crash(item)
    bench.start()
    bench.ledger.wrote(item, Piece("Once", 1))
    bench.ledger.answered(done(item), bench.now)

    assert bench.pieces == [("Once", 1)]
    assert bench.outcomes[item] == [Done(Answer(f"answer {item}", {}, Usage(1, 0)), Timings())]


def test_pieces_of_who_has_left_are_nobodys():
    bench = Bench()
    item = bench.submit(stream=True)
    bench.start()
    bench.ledger.leave(item)
    bench.ledger.wrote(item, Piece("late", 1))

    assert bench.pieces == []


def test_what_a_stream_used_is_told_until_it_ends():
    bench = Bench()
    item, plain = bench.submit(stream=True), bench.submit()
    bench.start()
    bench.ledger.used(Used(item, 4, 1))
    bench.ledger.used(Used(plain, 4, 1))
    bench.ledger.used(Used(item, 4, 2))
    bench.ledger.expire(item)
    bench.ledger.used(Used(item, 4, 3))

    assert bench.used == [Usage(4, 1), Usage(4, 2)]


def test_stream_that_read_its_prompt_and_told_nothing_is_run_again():
    bench = Bench()
    item = bench.submit(stream=True)
    bench.start()
    bench.ledger.used(Used(item, 4, 0))
    bench.crash(item)
    assert bench.start().items.keys() == {item} and bench.outcomes[item] == []
