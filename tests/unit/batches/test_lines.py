"""Lines of a batch's file: which are right, and what is said of the others."""

import io
import json
from typing import Any

import pytest

from app.batches.lines import MOST_PROBLEMS, SLICE_LINES, Checker, Line, LineReader, task_of
from app.batches.status import Problem

MOST_BYTES = 3000
URL = "/v1/embeddings"


def line(number: int = 1, **changes: Any) -> bytes:
    body = {"model": "embedder", "input": "a cat"}
    whole = {"custom_id": f"line-{number}", "method": "POST", "url": URL, "body": body}
    return json.dumps(
        {name: x for name, x in {**whole, **changes}.items() if x is not None}
    ).encode()


def known(model: str) -> Problem | None:
    return None if model == "embedder" else Problem("model_not_found", f"no model {model!r}")


def checked(data: bytes, max_lines: int = 1000) -> Checker:
    checker = Checker(URL, max_lines, MOST_BYTES, known)
    reader = LineReader(io.BytesIO(data), MOST_BYTES)
    while not checker.is_over and (lines := reader.slice()):
        checker.check(lines)
    if not checker.is_over:
        checker.finish()
    return checker


def problems(data: bytes, **limits: int) -> list[tuple[str, int | None, str | None]]:
    return [(each.code, each.line, each.param) for each in checked(data, **limits).problems]


RIGHT = {
    "one line": line(1),
    "a last line break": line(1) + b"\n",
    "a byte order mark": b"\xef\xbb\xbf" + line(1),
    "windows line breaks": line(1) + b"\r\n" + line(2) + b"\r\n",
    "blank lines": b"\n" + line(1) + b"\n\n  \n" + line(2) + b"\n\n",
    "fields that are not ours": line(1, further={"a": [1]}),
    "escapes": line(1, custom_id="\u00e4\u2028\\"),
}
WRONG = {
    "no lines": (b"", ("empty_file", None, None)),
    "blank lines alone": (b"\n \r\n", ("empty_file", None, None)),
    "no JSON": (b"{custom_id}", ("invalid_json_line", 1, None)),
    "cut off": (line(1)[:-1], ("invalid_json_line", 1, None)),
    "two values": (line(1) + b"{}", ("invalid_json_line", 1, None)),
    "not UTF-8": (line(1, further="ab").replace(b"ab", b"\xff"), ("invalid_json_line", 1, None)),
    "NaN": (line(1, further=1).replace(b": 1}", b": NaN}"), ("invalid_json_line", 1, None)),
    "a mark inside": (line(1) + b"\n\xef\xbb\xbf" + line(2), ("invalid_json_line", 2, None)),
    "nested deeply": (line(1)[:-1] + b', "x": ' + b"[" * 2500, ("invalid_json_line", 1, None)),
    "a list": (b"[]", ("invalid_request", 1, None)),
    "no custom_id": (line(1, custom_id=None), ("invalid_request", 1, None)),
    "an empty custom_id": (line(1, custom_id=""), ("invalid_request", 1, "custom_id")),
    "a number as custom_id": (line(1, custom_id=7), ("invalid_request", 1, "custom_id")),
    "another method": (line(1, method="GET"), ("invalid_request", 1, "method")),
    "another url": (line(1, url="/v1/files"), ("url_mismatch", 1, "url")),
    "no body": (line(1, body=None), ("invalid_request", 1, None)),
    "a text as body": (line(1, body="x"), ("invalid_request", 1, "body")),
    "an unknown model": (line(1, body={"model": "m"}), ("model_not_found", 1, "body.model")),
    "no model": (line(1, body={}), ("model_not_found", 1, "body.model")),
    "the same custom_id": (
        line(1) + b"\n" + line(2) + b"\n" + line(1),
        ("duplicate_custom_id", 3, "custom_id"),
    ),
    "a long line": (
        line(1) + b"\n" + b"x" * 9000 + b"\n" + line(2),
        ("line_too_long", 2, None),
    ),
    "a long last line": (line(1) + b"\n" + b"x" * 9000, ("line_too_long", 2, None)),
}


@pytest.mark.parametrize("data", RIGHT.values(), ids=RIGHT)
def test_lines_that_are_right(data):
    checker = checked(data)
    assert checker.problems == []
    assert checker.total == data.count(b"line-") or data == RIGHT["escapes"]


@pytest.mark.parametrize(("data", "told"), WRONG.values(), ids=WRONG)
def test_lines_that_are_wrong(data, told):
    assert problems(data) == [told]


def test_lines_behind_a_wrong_one_are_checked():
    data = b"\n".join([line(1), b"{", line(2), b"[]", line(3)])
    assert problems(data) == [("invalid_json_line", 2, None), ("invalid_request", 4, None)]
    assert checked(data).total == 5


def test_there_may_be_so_many_lines_and_no_more():
    lines = [line(number) for number in range(5)]
    assert problems(b"\n".join(lines), max_lines=5) == []
    assert problems(b"\n".join(lines), max_lines=4) == [("too_many_tasks", 5, None)]


def test_so_many_problems_are_told_and_no_more():
    checker = checked(b"{\n" * (2 * MOST_PROBLEMS))
    assert len(checker.problems) == MOST_PROBLEMS
    assert checker.is_over


def test_a_reader_holds_one_slice():
    data = b"".join(line(number) + b"\n" for number in range(2 * SLICE_LINES))
    reader = LineReader(io.BytesIO(data), MOST_BYTES)
    slices = [reader.slice() for _ in range(3)]
    assert [len(each) for each in slices] == [SLICE_LINES, SLICE_LINES, 0]
    assert slices[1][0] == Line(SLICE_LINES + 1, line(SLICE_LINES) + b"\n")


def test_the_body_of_a_task_is_as_it_was_sent():
    task = task_of(b'{"url": "x", "body": {"a":1.50, "a": 2}, "custom_id": "c"}')
    assert (task.custom_id, bytes(task.body)) == ("c", b'{"a":1.50, "a": 2}')
