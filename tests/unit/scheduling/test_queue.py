"""Rows that wait."""

from app.scheduling.queue import Row, RowQueue


def row(item_id: int, index: int = 0, *, deadline: float | None = None) -> Row:
    return Row(item_id, index, tokens=10, arrived=0.0, deadline=deadline)


def queue_of(*rows: Row) -> RowQueue:
    queue = RowQueue()
    queue.add(rows)
    return queue


def head_of(queue: RowQueue, now: float = 0.0) -> Row | None:
    return queue.head(now, lambda row: row.is_expired(now))


def test_the_head_is_the_oldest_row_of_a_caller():
    queue = queue_of(row(3), row(1), row(2))

    head = head_of(queue)
    assert head == row(3)
    assert [r.item_id for r in queue.company(head, 2)] == [3, 1]
    assert len(queue) == 3


def test_an_empty_queue_has_no_head():
    assert head_of(queue_of()) is None


def test_company_is_of_the_heads_group():
    head, other = Row(1, 0, 10, 0.0, None, "a"), Row(2, 0, 10, 0.0, None, "b")
    alike = Row(3, 0, 10, 0.0, None, "a")

    assert queue_of(head, other, alike).company(head, 10) == [head, alike]
    assert queue_of(head, other, alike).company(head, 2) == [head]


def test_what_is_late_waits_until_nothing_else_does():
    queue = queue_of(row(1, deadline=1.0), row(2))

    assert head_of(queue, now=2.0) == row(2)
    queue.take([row(2)])
    assert head_of(queue, now=2.0) == row(1, deadline=1.0)
    queue.take([row(1, deadline=1.0)])
    assert (head_of(queue, now=2.0), len(queue)) == (None, 0)


def test_what_is_late_can_be_dropped():
    queue = queue_of(row(1, deadline=1.0))
    head_of(queue, now=2.0)

    assert queue.drop(1, row_count=1) == 1
    assert (head_of(queue), len(queue)) == (None, 0)


def test_urgent_rows_come_by_deadline():
    queue = queue_of(*(row(i, deadline=float(i)) for i in (5, 2, 9, 3, 7)), row(1))

    assert [r.item_id for r in queue.urgent(8.0, row(1))] == [2, 3, 5, 7]
    assert queue.urgent(2.0, row(1)) == []


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

    assert queue.expired(now=4.9) == set()
    assert queue.expired(now=5.0) == {1}
    queue.drop(1, row_count=1)
    assert queue.expired(now=99.0) == {3}


def test_deadlines_of_rows_that_left_are_not_kept_for_ever():
    queue = queue_of()
    for item in range(10_000):
        queue.add([row(item, deadline=1000.0)])
        queue.take([row(item, deadline=1000.0)])

    assert len(queue._due) < 200
