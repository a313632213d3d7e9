"""Whose turn it is between the classes."""

from app.core.types import Priority
from app.jobs.order import AGED_S, Turns, Waiting

INTERACTIVE, NORMAL, BATCH = Priority


def line(name: str, count: int, since: float = 0.0) -> list[Waiting]:
    return [Waiting(f"{name}{at}", since) for at in range(count)]


def choose(turns: Turns, count: int, now: float = 1.0, **lines: list[Waiting]) -> list[str]:
    waiting = {priority: lines.get(priority.name.lower(), []) for priority in Priority}
    return turns.choose(waiting, count, now)


def test_better_classes_go_first_and_each_keeps_its_order():
    chosen = choose(Turns(), 5, batch=line("b", 9), interactive=line("i", 2), normal=line("n", 2))
    assert chosen == ["i0", "i1", "n0", "n1", "b0"]


def test_a_class_that_has_waited_for_long_is_due_a_tenth():
    chosen = choose(
        Turns(), 20, AGED_S[BATCH], batch=line("b", 9), normal=line("n", 99, AGED_S[BATCH])
    )
    assert [one for one in chosen if one.startswith("b")] == ["b0", "b1"]
    assert len(chosen) == 20


def test_small_claims_add_up_to_a_tenth():
    turns, now = Turns(), AGED_S[BATCH]
    chosen = [
        one
        for _ in range(100)
        for one in choose(turns, 1, now, batch=line("b", 9), normal=line("n", 9, now))
    ]
    assert 9 <= sum(one.startswith("b") for one in chosen) <= 10


def test_what_is_not_needed_by_better_classes_is_taken_whole():
    chosen = choose(Turns(), 4, AGED_S[BATCH], batch=line("b", 9), normal=line("n", 1))
    assert sorted(chosen) == ["b0", "b1", "b2", "n0"]


def test_an_aged_class_alone_gets_no_more_than_there_is():
    assert choose(Turns(), 64, 1e6, batch=line("b", 3)) == ["b0", "b1", "b2"]
    assert choose(Turns(), 64, 1e6) == []
