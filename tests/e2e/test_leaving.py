"""Nothing is left of clients that leave at random moments."""

import asyncio
import time

from tests.e2e.leaving import BEATS_S, PASSES, Leaving, come_and_leave, figures
from tests.e2e.leaving import until_nothing_is_left
from tests.processes import until


def test_work_of_clients_who_leave_at_random_stops_and_gauges_return_to_zero(server):
    server.until_ready()
    asyncio.run(come_and_leave(server.port, Leaving(clients=80, spread_s=1.5, stay_s=1.0)))
    released_s, idle_s = until_nothing_is_left(server, 15)
    assert released_s < 5 and idle_s < 15

    time.sleep(BEATS_S)  # what was run before the last heartbeat is told by now
    passes = figures(server)[PASSES]
    time.sleep(BEATS_S)
    assert figures(server)[PASSES] == passes, "somebody still computes"
    assert server.infer("sentiment", "Good morning").status_code == 200


def test_a_batch_whose_client_leaves_makes_room_at_once(server):
    """The queue was full of one client's entries; the next client does not wait for them."""
    server.until_ready()

    async def leave_a_full_queue() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        entry = b'{"model": "generator", "text": "1, 2, 3,", "parameters": {"max_new_tokens": 400}}'
        body = b'{"requests": [' + b",".join([entry] * 200) + b"]}"
        writer.write(
            b"POST /infer/batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        await asyncio.to_thread(
            until, lambda: server.unanswered("generator") == 200, "the submission", 15
        )
        writer.close()

    asyncio.run(leave_a_full_queue())
    until(lambda: server.unanswered("generator") == 0, "the withdrawal", 10)
    answer = server.infer("generator", "1, 2, 3,", max_new_tokens=2)
    assert answer.status_code == 200, answer.text
