"""Batches that are run in parts."""

from hypothesis import given
from hypothesis import strategies as st

from app.runtimes.parts import parts

ROWS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=30)


@given(ROWS)
def test_every_row_is_in_one_part_and_no_part_exceeds_a_limit_unless_it_is_one_row(rows):
    lengths, held = [row[0] for row in rows], [row[1] for row in rows]
    made = list(parts(lengths, 50, held, 40))

    assert sorted(at for part in made for at in part) == list(range(len(rows)))
    for part in made:
        fits = len(part) * max(lengths[at] for at in part) <= 50
        assert len(part) == 1 or (fits and sum(held[at] for at in part) <= 40)


def test_rows_alike_in_length_share_a_part():
    assert list(parts([9, 2, 8, 1], 18, [1] * 4, 100)) == [[3, 1], [2, 0]]


def test_many_beams_make_small_parts():
    assert list(parts([1] * 4, 100, [16, 16, 16, 16], 32)) == [[0, 1], [2, 3]]
