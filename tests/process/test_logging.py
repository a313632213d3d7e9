"""A server goes on answering whoever reads its log, and however slowly."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import tty

import httpx
import pytest

from app.core.log_writer import LogWriter
from tests.e2e.serving import ENDS_S, environment
from tests.processes import until

REQUESTS = 300
CATALOG = """
artefacts:
  nothing:
    runtime: openvino_encoder
    files: {model: {source: "file:///no/such/file", sha256: "%s", size_bytes: 1}}
models:
  absent: {v1: {task: embed, artefact: nothing}}
""" % ("0" * 64)


def a_pipe():
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    return reads, writes


def a_socket():
    reads, writes = socket.socketpair()
    writes.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return reads.detach(), writes.detach()


def a_terminal():
    reads, writes = pty.openpty()
    tty.setraw(writes)
    return reads, writes


class Unread:
    """A server whose log nobody reads once it listens."""

    def __init__(self, folder, make):
        catalog = folder / "catalog.yaml"
        catalog.write_text(CATALOG)
        self.reads, writes = make()
        self.process = subprocess.Popen(
            (sys.executable, "-m", "app.main"),
            cwd=folder,
            env=environment(MODEL_CATALOG=catalog, DEFAULT_MODEL="absent"),
            stderr=writes,
            start_new_session=True,
        )
        os.close(writes)
        self.seen = b""
        os.set_blocking(self.reads, False)
        until(lambda: self.event("listening") and self.event("version_failed"), "a start", ENDS_S)
        port = self.event("listening")["port"]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def read(self):
        with contextlib.suppress(OSError):  # of a terminal whose other end is closed
            while chunk := os.read(self.reads, 65536):
                self.seen += chunk
        return self.seen

    def events(self):
        return [json.loads(line) for line in self.read().split(b"\n")[:-1]]

    def event(self, name):
        return next((event for event in self.events() if event["event"] == name), None)

    def ask(self, number):
        return self.client.post(
            "/infer", json={"text": "x", "model": "nobody"}, headers={"X-Request-Id": f"r{number}"}
        ).status_code

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.client.close()
        os.close(self.reads)


@pytest.fixture
def unread(tmp_path):
    servers = []

    def start(make):
        servers.append(Unread(tmp_path, make))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.mark.parametrize("make", [a_pipe, a_socket, a_terminal])
def test_server_whose_log_nobody_reads_goes_on_answering_and_loses_no_line(unread, make):
    server = unread(make)
    assert {server.ask(number) for number in range(REQUESTS)} == {404}

    def told():
        return [e["request_id"] for e in server.events() if e["event"] == "request"]

    until(lambda: len(told()) == REQUESTS, "the lines that were kept", 10)
    assert told() == [f"r{number}" for number in range(REQUESTS)]


def test_server_whose_log_nobody_reads_ends_when_it_is_told_to(unread):
    server = unread(a_pipe)
    for number in range(REQUESTS):
        server.ask(number)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(ENDS_S) == 0


def test_lines_that_were_kept_come_before_the_end(unread):
    """The reader is slow, not gone."""
    server = unread(a_pipe)
    for number in range(REQUESTS):
        server.ask(number)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.event("stopped"), "the last line", ENDS_S)
    assert server.process.wait(ENDS_S) == 0
    assert len([e for e in server.events() if e["event"] == "request"]) == REQUESTS


def test_lines_beyond_the_bound_are_dropped_and_counted():
    reads, writes = a_pipe()
    told: list[int] = []
    seen: list[bytes] = []
    writer = LogWriter(writes, told.append, most_bytes=100 * 1000)
    for _ in range(1000):
        writer.write(b"x" * 999 + b"\n")
    reader = threading.Thread(target=lambda: seen.append(_read_until(reads, lambda: told)))
    reader.start()
    reader.join(ENDS_S)
    assert told and len(told) == 1
    lines = seen[0].splitlines()
    assert {len(line) for line in lines} == {999}
    assert len(lines) + told[0] == 1000
    os.close(reads)
    writer.write(b"nobody is there any more\n")
    writer.close()
    os.close(writes)


def _read_until(reads, condition):
    seen = b""
    os.set_blocking(reads, False)
    ends = time.monotonic() + ENDS_S
    while time.monotonic() < ends:
        try:
            seen += os.read(reads, 65536)
        except BlockingIOError:
            if condition():
                return seen
            time.sleep(0.01)
    return seen


def test_where_no_description_of_our_own_is_allowed_a_thread_writes(monkeypatch):
    """The pipe is another user's."""

    def refused(*arguments):
        raise PermissionError

    reads, writes = a_pipe()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        writer = LogWriter(writes, lambda _: None)
    lines = [b"line %d\n" % number for number in range(2000)]
    for line in lines:
        writer.write(line)
    assert _read_until(reads, lambda: not writer._kept) == b"".join(lines)
    writer.close()
    os.close(reads)
    os.close(writes)


def test_pipe_that_others_share_keeps_blocking_for_them():
    reads, writes = a_pipe()
    writer = LogWriter(writes, lambda _: None)
    writer.write(b"a line\n")
    assert os.get_blocking(writes)
    assert os.read(reads, 100) == b"a line\n"
    os.close(reads)
    os.close(writes)


CRASH = """
from app.core.logging import configure_logging
import structlog
configure_logging("json", "info")
for number in range(200):
    structlog.get_logger().info("a line", number=number, words="o" * 100)
raise KeyError("the reason")
"""


def test_traceback_of_a_crash_comes_out_whole():
    done = subprocess.run([sys.executable, "-c", CRASH], stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines()
    assert [json.loads(line)["number"] for line in lines[:200]] == list(range(200))
    assert lines[200] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyError: 'the reason'"
    assert done.returncode == 1


def test_log_in_a_file_is_appended_to(tmp_path):
    """A description of its own would begin at its beginning."""
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as log:
        subprocess.run([sys.executable, "-c", CRASH], stderr=log)
        subprocess.run([sys.executable, "-c", CRASH], stderr=log)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.count("KeyError: 'the reason'") == 2
    assert text.count('"a line"') == 400
