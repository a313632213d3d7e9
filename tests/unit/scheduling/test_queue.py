"""Rows that wait."""

from app.scheduling.queue import Row, RowQueue


def row(item_id: int, index: int = 0, *, deadline: float | None = None) -> Row:
    return Row(item_id, index, tokens=10, arrived=0.0, deadline=deadline)


def queue_of(*rows: Row) -> RowQueue:
    queue = RowQueue()
    queue.add(rows)
    return queue


def test_window_shows_the_oldest_rows_in_order_of_arrival():
    queue = queue_of(row(3), row(1), row(2))

    assert [r.item_id for r in queue.window(2)] == [3, 1]
    assert len(queue) == 3


def test_an_empty_queue_has_an_empty_window():
    assert queue_of().window(5) == []


def test_taken_rows_are_gone_and_the_rest_keeps_its_order():
    queue = queue_of(row(1), row(2), row(3))
    queue.take([row(2)])

    assert [r.item_id for r in queue] == [1, 3]


def test_dropping_an_item_removes_all_its_waiting_rows_and_says_how_many():
    queue = queue_of(row(1, 0), row(2, 0), row(1, 1), row(1, 2))
    queue.take([row(1, 1)])

    assert queue.drop(1, row_count=3) == 2
    assert list(queue) == [row(2, 0)]
    assert queue.drop(1, row_count=3) == 0


def test_a_row_expires_at_its_deadline_and_not_before():
    queue = queue_of(row(1, deadline=5.0), row(2), row(3, deadline=6.0))

    assert queue.expired(now=4.9, window=10) == set()
    assert queue.expired(now=5.0, window=10) == {1}
    assert queue.expired(now=99.0, window=10) == {1, 3}


def test_expiry_is_looked_for_in_the_window_only():
    queue = queue_of(row(1), row(2), row(3, deadline=1.0))

    assert queue.expired(now=2.0, window=2) == set()
    queue.take([row(1)])
    assert queue.expired(now=2.0, window=2) == {3}
