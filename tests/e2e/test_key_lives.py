"""Keys of a whole server: it keeps to itself until there is one, and believes the command line."""

import csv
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.e2e.conftest import Start
from tests.e2e.serving import ServerProcess, catalog_of, cli
from tests.processes import until


def status(server: ServerProcess, secret: str = "") -> int:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return server.client.get("/models", headers=headers).status_code


def killed(pid: int) -> bool:
    """False: nothing but the death of the process ends what was asked of it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return False


def test_until_there_is_a_key_the_server_listens_to_its_own_machine(start_server: Start, tmp_path):
    first = start_server(HOST="0.0.0.0", GRPC_PORT=0)
    told = first.wait_for(lambda event: event["event"] == "listening_on_loopback_only")
    assert "keys create" in told["remedy"] and "ALLOW_ANONYMOUS" in told["remedy"]
    assert first.wait_for(lambda event: event["event"] == "listening")["host"] == "127.0.0.1"
    assert status(first) == 200

    secret = cli(tmp_path, "keys", "create", "app")
    until(lambda: status(first) == 401, "the first key closes the door to others", 10)
    assert status(first, secret) == 200
    cli(tmp_path, "keys", "update", "app", "--scope", "infer")
    until(lambda: status(first, secret) == 403, "a key that was changed elsewhere is so here", 10)
    cli(tmp_path, "keys", "revoke", "app")
    until(lambda: status(first, secret) == 401, "a key that was revoked elsewhere ends", 10)

    second = start_server(HOST="0.0.0.0")
    assert second.wait_for(lambda event: event["event"] == "listening")["host"] == "0.0.0.0"
    assert status(second) == 401
    for server in (first, second):
        assert secret not in str(server.events) + str(server.other_lines)
    assert os.stat(tmp_path / "data").st_mode & 0o077 == 0, "nobody else reads the database"


def test_the_ledger_has_what_clients_saw_even_after_a_kill(start_server: Start, tmp_path):
    secret = cli(tmp_path, "keys", "create", "app")
    server = start_server()
    server.until_ready()
    headers = {"Authorization": f"Bearer {secret}"}
    seen = Counter[str]()

    def ask(path: str, body: dict[str, Any]) -> Any:
        return server.client.post(path, json=body, headers=headers).json()

    for text in ("good", "a bad day", "good"):
        usage = ask("/infer", {"model": "sentiment", "text": text})["metadata"]["usage"]
        seen["sentiment"] += usage["total_tokens"]
    entries = [{"model": "sentiment", "text": "so so"}, {"model": "nope", "text": "x"}]
    for result in ask("/infer/batch", {"requests": entries})["results"]:
        if result["success"]:
            seen["sentiment"] += result["metadata"]["usage"]["total_tokens"]
    body = {"model": "embedder", "input": ["one", "two three"]}
    seen["embedder"] += ask("/v1/embeddings", body)["usage"]["total_tokens"]
    chat = {
        "model": "generator",
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with server.client.stream("POST", "/v1/chat/completions", json=chat, headers=headers) as told:
        events = [line.removeprefix("data: ") for line in told.iter_lines() if line]
    seen["generator"] += json.loads(events[-2])["usage"]["total_tokens"]

    time.sleep(1.0)  # what was answered longer ago than this must outlive the kill
    server.tell_all(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    rows = list(csv.DictReader(cli(tmp_path, "usage", "--by", "key,model", "--csv").splitlines()))
    assert {row["key"] for row in rows} == {"app"}
    tokens = {row["model"]: int(row["input_tokens"]) + int(row["output_tokens"]) for row in rows}
    assert tokens == seen
    items = {row["model"]: int(row["items"]) for row in rows}
    assert items == {"sentiment": 4, "embedder": 2, "generator": 1}


def test_streams_that_are_cut_off_are_in_the_ledger_by_what_they_used(start_server, tmp_path):
    """By the client, by the deadline and by the worker's death."""
    headers = {"Authorization": f"Bearer {cli(tmp_path, 'keys', 'create', 'app')}"}
    catalog = catalog_of(tmp_path, "generator")
    server = start_server(MODEL_CATALOG=catalog, DEFAULT_MODEL="generator")
    server.until_ready()
    parameters = {"max_new_tokens": 1500, "min_new_tokens": 1500, "temperature": 0}
    story = {"model": "generator", "text": "The history of bridges is"}
    body = {**story, "parameters": parameters, "stream": True}

    def used() -> Counter[str]:
        (row,) = server.client.get("/usage", headers=headers).json()["usage"]
        return Counter({name: row[name] for name in ("failures", "input_tokens", "output_tokens")})

    def begin(**more: str) -> Any:
        return server.client.stream("POST", "/infer", json=body, headers=headers | more)

    first = server.infer(story["model"], story["text"], headers=headers, max_new_tokens=1).json()
    read = first["metadata"]["usage"]["input_tokens"]

    def cut_off(stream: Any, after_piece: Callable[[], bool], most_more: float) -> None:
        before, told = used(), 0
        with stream as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and "tokens" in (event := json.loads(line[6:])):
                    told += event["tokens"]
                    if after_piece():
                        break
        until(lambda: used()["failures"] > before["failures"], "the stream's entry", 10)
        added = used() - before
        assert (added["failures"], added["input_tokens"]) == (1, read)
        assert 0 < told <= added["output_tokens"] <= told + most_more

    cut_off(begin(), lambda: True, 1500)
    cut_off(begin(**{"X-Request-Timeout-Ms": "1500"}), lambda: False, 2)
    worker = server.worker_pids()["SmolLM2-135M-Instruct"]
    cut_off(begin(), lambda: killed(worker), 2)


def test_strangers_are_let_in_where_that_was_said(start_server: Start):
    server = start_server(HOST="0.0.0.0", ALLOW_ANONYMOUS="true")
    assert server.wait_for(lambda event: event["event"] == "listening")["host"] == "0.0.0.0"
    assert status(server) == 200 and server.client.get("/admin/keys").status_code == 401
