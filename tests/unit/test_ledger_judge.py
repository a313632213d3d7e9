"""What a ledger may say after kills: were it looser, the benchmark would prove nothing."""

import pytest

from benchmarks.ledger_judge import (
    IN_FLIGHT_LINES,
    NOTHING,
    Book,
    Kills,
    Polled,
    Tokens,
    span_of_answer,
    span_of_batch,
    span_of_job,
)

USED = Tokens(10, 3)
SHOP = ("shop", "generator")


@pytest.fixture
def kills():
    """The first server was killed at 100, the second at 200, the third was not."""
    kills = Kills()
    kills.at |= {1: 100.0, 2: 200.0}
    return kills


@pytest.mark.parametrize(
    ("server", "at", "is_sure"),
    [(1, 98.9, True), (1, 99.1, False), (1, 100.1, False), (2, 150.0, True), (3, 900.0, True)],
)
def test_only_what_came_in_the_last_second_before_its_servers_kill_may_be_lost(
    kills, server, at, is_sure
):
    assert kills.is_sure(server, at) is is_sure
    least, most = span_of_answer(USED, is_sure=is_sure)
    assert (least, most) == (USED if is_sure else NOTHING, USED)


@pytest.mark.parametrize(
    ("inputs", "attempts", "ended_at", "least", "times"),
    [
        (1, 1, 50.0, USED, 1),
        (1, 2, 150.0, USED, 2),  # the first time may have been counted before the kill
        (1, 1, 99.5, NOTHING, 1),
        (20, 1, 50.0, USED, 1),
        (20, 2, 150.0, NOTHING, 2),  # parts of the first time may be answers, and not counted
    ],
)
def test_a_job_counts_once_for_each_time_it_was_begun(
    kills, inputs, attempts, ended_at, least, times
):
    span = span_of_job(USED, inputs, attempts, ended_at, kills)
    assert span == (least, USED.times(times))


def test_a_batch_between_kills_is_exact(kills):
    lines = [USED] * 300
    assert span_of_batch(lines, [], 110.0, 190.0, kills) == (USED.times(300), USED.times(300))


def test_of_a_batch_under_way_at_a_kill_the_lines_around_it_are_unsure(kills):
    lines = [USED] * 300
    polls = [Polled(98.0, 40), Polled(99.5, 90), Polled(104.0, 100), Polled(110.0, 300)]
    least, most = span_of_batch(lines, polls, 90.0, 111.0, kills)
    unsure = 100 - 40 + IN_FLIGHT_LINES
    assert least == USED.times(300 - unsure)
    assert most == USED.times(300 + unsure)


def test_a_book_is_broken_by_one_token_too_few_or_too_many_and_by_strangers():
    book = Book()
    book.add(SHOP, Tokens(10, 0), Tokens(12, 3))
    assert book.broken({SHOP: Tokens(12, 0)}) == []
    for wrong in (Tokens(9, 0), Tokens(13, 0), Tokens(10, 4)):
        (told,) = book.broken({SHOP: wrong})
        assert "shop" in told and str(wrong.input) in told
    assert len(book.broken({SHOP: Tokens(10, 0), ("nobody", "x"): Tokens(1)})) == 1
    assert len(book.broken({})) == 1
