"""Starts, stops, and workers that are killed."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.e2e.serving import COMMAND, ENDS_S, READY_S, environment
from tests.processes import living, until

WORKERS = {"all-MiniLM-L6-v2": "sentiment", "SmolLM2-135M-Instruct": "generator"}
COUNTED = "1, 2, 3, 4, 5, 6,"
GONE = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)


def refuses(server):
    """Whether a request on a new connection is turned away."""
    try:
        response = httpx.post(f"{server.url}/infer", json={"text": "Hello", "model": "sentiment"})
    except GONE:
        return True
    return response.status_code == 503


def begin_story(threads, server, tokens):
    """A generation that takes seconds, and is inside the worker when this returns."""
    before = server.unanswered("generator")
    running = threads.submit(server.infer, "generator", COUNTED, **story_of(tokens))
    until(lambda: server.unanswered("generator") == before + 1, "the submission", 10)
    return running


@contextmanager
def begun_stream(server, tokens):
    """The lines of a stream; the first have come, and the others are still to be written."""
    body = {"model": "generator", "text": COUNTED, "stream": True, "parameters": story_of(tokens)}
    with server.client.stream("POST", "/infer", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: piece"
        yield lines


def story_of(tokens):
    return {"max_new_tokens": tokens, "temperature": 0}


def workers_of(server):
    return psutil.Process(server.process.pid).children(recursive=True)


def test_stop_finishes_what_runs_streams_too_and_leaves_no_process(start_server):
    server = start_server(SHUTDOWN_GRACE_S=60)
    server.until_ready()
    workers = workers_of(server)
    assert len(workers) == len(WORKERS)
    with ThreadPoolExecutor() as threads, begun_stream(server, tokens=200) as lines:
        running = begin_story(threads, server, tokens=200)
        server.tell_all(signal.SIGTERM)
        until(lambda: refuses(server), "the refusal of new work", 5)
        assert not running.done(), "the generation was too short to prove anything"
        *_, last_event = (line for line in lines if line.startswith("event: "))
        answer = running.result(ENDS_S)
    assert last_event == "event: done"
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["usage"]["output_tokens"] == 200
    assert server.wait() == 0
    until(lambda: not any(living(worker.pid) for worker in workers), "the end of all workers", 5)
    assert server.other_lines == []


@pytest.mark.parametrize(("grace_s", "signals"), [(0.5, 1), (60, 2)], ids=["grace", "twice"])
def test_stop_ends_when_the_grace_is_over_or_at_the_second_signal(start_server, grace_s, signals):
    server = start_server(SHUTDOWN_GRACE_S=grace_s)
    server.until_ready()
    workers = workers_of(server)
    with ThreadPoolExecutor() as threads:
        running = begin_story(threads, server, tokens=2000)
        told = time.monotonic()
        for _ in range(signals):
            server.process.terminate()
            server.wait_for(lambda e: e["event"] == "stopping", 5)
        status = server.wait()
        assert time.monotonic() - told < 10
        try:
            assert running.result(1).status_code == 503
        except GONE:
            pass  # a second signal does not wait for answers to be sent
    assert status == 0
    until(lambda: not any(living(worker.pid) for worker in workers), "the end of all workers", 5)


def test_stop_while_loading_is_quick_and_clean(start_server):
    server = start_server()

    until(lambda: workers_of(server), "the first worker", READY_S)
    workers = workers_of(server)
    server.tell_all(signal.SIGTERM)
    assert server.wait() == 0
    until(lambda: not any(living(worker.pid) for worker in workers), "the end of all workers", 5)
    assert [event for event in server.events if event["level"] == "error"] == []


def test_workers_of_a_killed_server_die_with_it(start_server):
    server = start_server()
    server.wait_for(lambda event: event["event"] == "worker_ready")
    workers = workers_of(server)
    assert workers
    server.process.kill()
    until(lambda: not any(living(worker.pid) for worker in workers), "the workers' end", 10)


def test_second_server_on_the_port_says_so_in_one_line(server):
    """With the same database, as it would be for whoever starts a server twice."""
    settings = environment(PORT=server.port)
    done = subprocess.run(COMMAND, cwd=server.folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PORT": "many"}, "PORT: "),
        ({"DEFAULT_MODEL": "nobody"}, "DEFAULT_MODEL is 'nobody'"),
        ({"MODEL_CATALOG": "/no/such/catalog.yaml"}, "/no/such/catalog.yaml"),
    ],
    ids=["type", "model", "file"],
)
def test_wrong_setting_is_one_line_and_no_worker(tmp_path, settings, words):
    done = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(**settings), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    "killed",
    ["all-MiniLM-L6-v2", pytest.param("SmolLM2-135M-Instruct", marks=pytest.mark.slow)],
)
def test_killed_worker_comes_back_while_the_others_serve(server, killed):
    server.until_ready()
    (other,) = WORKERS.keys() - {killed}
    restarts = restarts_of(server, killed)
    seen = len(server.events)
    os.kill(server.worker_pids()[killed], signal.SIGKILL)
    died = time.monotonic()
    until(lambda: not server.client.get("/health/ready").is_success, "the loss", 5)

    client = ThreadPoolExecutor(1)
    patient = {"X-Request-Timeout-Ms": "55000"}  # the client's own limit is 60 s
    held = client.submit(server.infer, WORKERS[killed], "Hello", headers=patient)
    while not server.client.get("/health/ready").is_success:
        assert server.infer(WORKERS[other], "Hello there").status_code == 200
        assert time.monotonic() - died < READY_S
    server.wait_for(lambda e: e["event"] == "worker_ready" and e["worker"] == killed, after=seen)
    assert restarts_of(server, killed) == restarts + 1
    assert held.result(READY_S).status_code == 200, "what came meanwhile was not kept"
    client.shutdown()
    assert server.infer(WORKERS[killed], "Hello there").status_code == 200


def restarts_of(server, worker):
    name = f'inference_worker_restarts_total{{worker="{worker}"}} '
    (line,) = [
        line for line in server.client.get("/metrics").text.splitlines() if line.startswith(name)
    ]
    return float(line.removeprefix(name))
