"""Answers kept for equal requests, bounded in bytes."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.types import Answer, Done, Timings, Usage
from app.services.response_cache import ENTRY_BYTES, ResponseCache


class Kept:
    def __init__(self, max_bytes: int = 10_000) -> None:
        self.bytes = self.evicted = 0
        self.cache = ResponseCache(max_bytes, self.on_change)

    def on_change(self, held_bytes: int, evicted: int) -> None:
        self.bytes = held_bytes
        self.evicted += evicted


def answer(size: int) -> Answer:
    return Answer("x" * size)


def test_an_answer_comes_back_whole_as_one_that_took_no_time():
    kept = Kept()
    whole = Answer(["a", {"b": [1.5, None]}], {"scores": {"good": 0.9}}, Usage(3, 2))
    kept.cache.put(b"1", whole)

    assert kept.cache.get(b"1") == Done(whole, Timings(0.0, 0.0), is_cached=True)
    assert kept.cache.get(b"2") is None


def test_who_changes_an_answer_changes_it_for_himself():
    kept = Kept()
    kept.cache.put(b"1", Answer([1, 2]))
    first, again = kept.cache.get(b"1"), kept.cache.get(b"1")
    assert first is not None and again is not None
    first.answer.value.append(3)

    assert again.answer.value == [1, 2]


def test_the_least_recently_used_leaves_first():
    kept = Kept(3 * (ENTRY_BYTES + 400))
    for key in (b"1", b"2", b"3"):
        kept.cache.put(key, answer(300))
    kept.cache.get(b"1")
    kept.cache.put(b"4", answer(300))

    assert [kept.cache.get(key) is not None for key in (b"1", b"2", b"3", b"4")] == [
        True,
        False,
        True,
        True,
    ]
    assert kept.evicted == 1


def test_an_answer_larger_than_the_cache_is_not_kept_and_drives_nobody_out():
    kept = Kept(2_000)
    kept.cache.put(b"1", answer(10))
    kept.cache.put(b"2", answer(5_000))

    assert kept.cache.get(b"2") is None
    assert kept.cache.get(b"1") is not None
    assert kept.evicted == 0


@given(st.lists(st.tuples(st.binary(max_size=1), st.integers(0, 1500)), max_size=60))
def test_the_bound_holds_whatever_is_kept(entries):
    kept = Kept(5_000)
    for key, size in entries:
        kept.cache.put(key, answer(size))
        assert kept.bytes <= 5_000
        assert kept.cache.get(key) == Done(answer(size), is_cached=True)
