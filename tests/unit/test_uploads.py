"""Forms with a file, however they are cut up on the way."""

from typing import Any

import pytest

from app.api.uploads import MAX_FIELD_BYTES, MAX_PARTS, FileForm, MalformedForm
from app.core.errors import BodyTooLarge, InvalidRequest, ServingError, UnsupportedMediaType

KIND = "multipart/form-data; boundary=xyz"
CONTENT = b"one\r\n--xy\r\ntwo\r\n\r\n--xyzzy" + bytes(range(256)) + b"\r"
END = b"--xyz--\r\n"


def part(disposition: bytes, value: bytes) -> bytes:
    head = b"--xyz\r\nContent-Disposition: form-data" + disposition
    return head + b"\r\nContent-Type: text/plain\r\n\r\n" + value + b"\r\n"


FILE = part(b'; name="file"; filename="in put.jsonl"', CONTENT)
PURPOSE = part(b'; name="purpose"', b"batch")


def read(data: bytes, step: int = 10_000, most: int = 1000, kind: str = KIND) -> tuple[Any, bytes]:
    form = FileForm(kind, most)
    pieces: list[bytes] = []
    for at in range(0, len(data), step):
        pieces += form.feed(data[at : at + step])
    form.finish()
    return form, b"".join(pieces)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("parts", [(PURPOSE, FILE), (FILE, PURPOSE)], ids=["first", "last"])
def test_a_form_is_read_however_it_comes(step, parts):
    form, content = read(b"".join(parts) + END, step)
    assert content == CONTENT
    assert (form.filename, form.fields) == ("in put.jsonl", {"purpose": "batch"})


NAMES = {
    b'; name="file"; filename="a\\"b"': 'a"b',
    b'; name=file; filename="\xc3\xa4.jsonl"': "ä.jsonl",
    b'; name="file"; filename="../../etc/passwd"': "../../etc/passwd",  # shown, never a path
    b'; name="file"; filename=""': "file",
    b'; name="file"; filename="a\tb\x7f"': "ab",
    b'; name="file"; filename="' + b"x" * 300 + b'"': "x" * 255,
}


@pytest.mark.parametrize(("disposition", "name"), NAMES.items(), ids=NAMES.values())
def test_names_of_files_are_text_and_short(disposition, name):
    assert read(part(disposition, b"x") + END)[0].filename == name


WRONG: dict[str, tuple[bytes, type[ServingError], str]] = {
    "nothing": (b"", MalformedForm, "no end"),
    "another boundary": (b"--abc\r\n", MalformedForm, "cannot be read"),
    "no end": (FILE, MalformedForm, "no end"),
    "no file": (PURPOSE + END, InvalidRequest, "file is missing"),
    "two files": (FILE + FILE + END, InvalidRequest, "file is given twice"),
    "a field twice": (PURPOSE + PURPOSE + FILE + END, InvalidRequest, "purpose is given twice"),
    "a file without a name": (part(b'; name="file"', b"x") + END, InvalidRequest, "filename"),
    "a field without a name": (part(b"", b"x") + END, MalformedForm, "no name"),
    "a long field": (
        part(b'; name="p"', b"x" * (MAX_FIELD_BYTES + 1)) + END,
        InvalidRequest,
        "p has more than 1024 bytes",
    ),
    "a field that is no text": (part(b'; name="p"', b"\xff") + END, InvalidRequest, "UTF-8"),
    "many fields": (
        b"".join(part(b'; name="p%d"' % n, b"") for n in range(MAX_PARTS + 1)),
        InvalidRequest,
        "more than 16 fields",
    ),
    "a long header": (
        b"--xyz\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n",
        MalformedForm,
        "cannot be read",
    ),
    "many headers": (b"--xyz\r\n" + b"X: y\r\n" * 100, MalformedForm, "cannot be read"),
    "a large file": (
        part(b'; name="file"; filename="x"', b"x" * 1001) + END,
        BodyTooLarge,
        "larger than 1000 bytes",
    ),
}


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize(("data", "error", "words"), WRONG.values(), ids=WRONG)
def test_forms_that_are_wrong_are_refused(data, error, words, step):
    with pytest.raises(error, match=words):
        read(data, step)


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=xyz"],
)
def test_only_forms_are_read(kind):
    with pytest.raises(UnsupportedMediaType):
        FileForm(kind, 1000)


def test_a_boundary_may_not_be_long():
    with pytest.raises(MalformedForm):
        FileForm(f"multipart/form-data; boundary={'x' * 1000}", 1000)
