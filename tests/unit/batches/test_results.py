"""What became of lines is in a file once, whatever happened to whoever wrote it."""

import errno
import json
import os
from pathlib import Path

import pytest

from app.batches.results import Reply, Results, error_line, reply_line, request_id_of

BATCH = f"batch_{'a' * 32}"


def answer(number: int) -> tuple[int, bytes]:
    reply = Reply(200, b'{"n":%d}' % number)
    return number, reply_line(BATCH, number, f"c{number}", reply, request_id_of(BATCH, number))


def test_lines_are_in_the_shape_of_the_protocol():
    name = '\u00e4"\n\u2028'
    told = json.loads(reply_line(BATCH, 17, name, Reply(422, b'{"error":{}}'), "r"))
    response = {"status_code": 422, "request_id": "r", "body": {"error": {}}}
    named = {"id": request_id_of(BATCH, 17), "custom_id": name}
    assert told == {**named, "response": response, "error": None}
    text = error_line(BATCH, 17, name, "batch_expired", "too late")
    error = {"code": "batch_expired", "message": "too late"}
    assert json.loads(text) == {**named, "response": None, "error": error}
    assert text.count(b"\n") == 1 and text.endswith(b"\n")


def test_what_was_kept_is_found_again(tmp_path):
    results = Results(tmp_path, BATCH)
    results.append([answer(1), answer(3)], [answer(2)])
    results.append([answer(5)], [])
    results.close()
    again = Results(tmp_path, BATCH)
    assert (again.numbers, again.counts) == ({1, 2, 3, 5}, (3, 1))
    again.close()


@pytest.mark.parametrize(
    "torn", [answer(2)[1][:-1], b"{", b"\x00" * 40, b"\x00\n", b"[]\n", b'{"id": "x"}\n'], ids=repr
)
def test_a_line_that_was_written_in_part_is_cut_off(tmp_path, torn):
    results = Results(tmp_path, BATCH)
    results.append([answer(1)], [])
    with results.output_path.open("ab") as file:
        file.write(torn)
    results.close()
    again = Results(tmp_path, BATCH)
    assert again.numbers == {1}
    again.append([answer(2)], [])
    again.close()
    assert again.output_path.read_bytes() == answer(1)[1] + answer(2)[1]


def test_files_without_lines_are_not_left(tmp_path):
    results = Results(tmp_path, BATCH)
    results.append([answer(1)], [])
    results.close()
    assert [path.name for path in tmp_path.iterdir()] == [results.output_path.name]


def test_what_a_full_disk_took_no_part_of_is_there_once(tmp_path, monkeypatch):
    results = Results(tmp_path, BATCH)
    answers, failures = [answer(1)], [answer(2)]
    syncs = []

    def second_fails(descriptor: int) -> None:
        syncs.append(descriptor)
        if len(syncs) == 2:
            raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fdatasync", second_fails)
    with pytest.raises(OSError, match="disk full"):
        results.append(answers, failures)
    assert (answers, failures) == ([], [answer(2)]), "what was kept is gone from the list"
    results.append(answers, failures)
    results.close()
    assert _texts(results) == [answer(1)[1], answer(2)[1]]


def _texts(results: Results) -> list[bytes]:
    paths: tuple[Path, ...] = (results.output_path, results.error_path)
    return [path.read_bytes() for path in paths]
