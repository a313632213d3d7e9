"""Prompts are cut where they are always cut, and none waits behind all of a long one."""

from hypothesis import given
from hypothesis import strategies as st

from app.runtimes.openvino_paged_plan import Piece, PromptReading

BUDGET = 8


@given(lengths=st.lists(st.integers(1, 40), max_size=8), joins=st.lists(st.integers(0, 5)))
def test_every_prompt_is_read_once_in_the_same_pieces_whoever_is_beside_it(lengths, joins):
    reading = PromptReading(BUDGET)
    waiting = dict(enumerate(lengths))
    pieces: dict[int, list[Piece]] = {number: [] for number in waiting}
    pauses = iter(joins)
    while waiting or len(reading):
        for number in list(waiting)[: next(pauses, 1) or (0 if len(reading) else 1)]:
            reading.add(number, waiting.pop(number))
        planned = reading.plan()
        assert planned and sum(piece.tokens for piece in planned.values()) <= BUDGET
        for number, piece in planned.items():
            pieces[number].append(piece)

    for number, length in enumerate(lengths):
        starts = list(range(0, length, BUDGET))
        stops = [*starts[1:], length]
        expected = [Piece(a, b, b == length) for a, b in zip(starts, stops, strict=True)]
        assert pieces[number] == expected


def test_a_short_prompt_waits_for_one_piece_of_a_long_one():
    reading = PromptReading(BUDGET)
    reading.add(1, 10 * BUDGET)
    reading.add(2, 3)

    assert list(reading.plan()) == [1]
    assert list(reading.plan()) == [2]


def test_who_leaves_is_read_no_further():
    reading = PromptReading(BUDGET)
    reading.add(1, 3 * BUDGET)
    reading.plan()
    reading.remove([1])

    assert len(reading) == 0
    assert not reading.plan()
