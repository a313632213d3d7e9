"""What others took of the processors during a measurement."""

import pytest

from app.workers.rivals import ProcessorTimes, Rivals, taken

START = ProcessorTimes(at=100.0, all=5000.0, ours=40.0)


@pytest.mark.parametrize(
    ("all_s", "ours_s", "processors", "threads", "share"),
    [
        (20, 20, 2, 2, 0.0),
        (20, 15, 2, 2, 0.25),
        (20, 0, 2, 2, 1.0),
        (60, 20, 8, 2, 0.0),  # four others beside two of eight
        (78, 18, 8, 2, 0.0),
        (80, 10, 8, 2, 0.5),
        (19, 20, 2, 2, 0.0),  # clocks are read one after the other
    ],
)
def test_share_that_others_left_no_processor_for(all_s, ours_s, processors, threads, share):
    after = ProcessorTimes(START.at + 10, START.all + all_s, START.ours + ours_s)
    assert taken(START, after, processors, threads) == pytest.approx(share)


def test_no_time_disturbs_nobody():
    assert taken(START, START, 2, 2) == 0.0


def test_clocks_of_this_machine_go_forward_and_ours_is_part_of_all():
    rivals = Rivals(threads=1_000_000)  # others can never take a tenth of these
    before = ProcessorTimes.now()
    with rivals.watched():
        sum(range(1_000_000))
    after = ProcessorTimes.now()
    assert not rivals.have_disturbed
    assert after.ours >= before.ours
    assert after.all >= before.all
