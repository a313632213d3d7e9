import os
import threading

import pytest

from app.core.errands import News

from app.core.errors import CannotLoad
from app.models.errands import Errands
from tests.process.errand import Job
from tests.processes import living

MODULE = "tests.process.errand"


def run(do, *, errands=None, tell=None):
    return (errands or Errands()).run(MODULE, Job(do), tell or (lambda news: None), os.environ)


def test_an_errand_tells_how_far_it_is_and_brings_its_result():
    news: list[News] = []
    assert run("answers", tell=news.append) == {"answer": 42}
    assert [(n.what, n.done, n.total) for n in news] == [("counting", 1, 2), ("counting", 2, 2)]


def test_what_libraries_print_is_not_taken_for_a_message():
    assert run("chats") == "ours"


@pytest.mark.parametrize(
    ("sin", "words"),
    [
        ("refuses", "^weights.bin is too short$"),
        ("breaks", "KeyError: 'hidden_size'"),
        ("runs_out_of_memory", "memory ran out"),
        ("is_killed", "killed, most likely because memory ran out"),
        ("segfaults", "ended with status -11: .*about to read address 0"),
    ],
)
def test_an_errand_that_fails_says_why(sin, words):
    with pytest.raises(CannotLoad, match=f"(?s){words}"):
        run(sin)


def test_stopping_ends_a_running_errand_and_refuses_the_next():
    errands, begun = Errands(), threading.Event()
    pids: list[int] = []
    failures: list[BaseException] = []

    def on_news(news):
        pids.append(int(news.what))
        begun.set()

    def hang():
        try:
            run("hangs", errands=errands, tell=on_news)
        except CannotLoad as error:
            failures.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    assert begun.wait(20)
    errands.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert not living(pids[0])
    assert "stopping" in str(failures[0])
    with pytest.raises(CannotLoad, match="stopping"):
        run("answers", errands=errands)
