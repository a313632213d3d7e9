"""Forms with a file, as OpenAI's clients send them, parsed while they come: fields are short and
few, and of the file no more is held than one read."""

import re
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.core.errors import BodyTooLarge, CallerError, InvalidRequest, UnsupportedMediaType

FORM_BYTES = 64 * 2**10  # what a form may have beside its file
MAX_PARTS, MAX_FIELD_BYTES, MAX_HEADER_BYTES = 16, 1024, 4096
MAX_FILENAME_CHARS = 255
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f]")


class MalformedForm(CallerError):
    """The body is not a valid form."""

    code = "invalid_form"


@dataclass(slots=True)
class _Part:
    """One that comes in. header: whose value is being read."""

    headers: dict[str, bytearray] = field(default_factory=dict)
    header: bytearray = field(default_factory=bytearray)
    name: str = ""
    filename: str | None = None
    value: bytearray = field(default_factory=bytearray)


class FileForm:
    """`feed` what comes, which gives what belongs to the file; then `finish`.

    fields: by name; filename: None until the file has begun.
    """

    def __init__(self, content_type: str, max_file_bytes: int) -> None:
        """Raises UnsupportedMediaType, MalformedForm."""
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._parts = 0
        self._part = _Part()
        self._pieces: list[bytes] = []
        self._is_over = False
        self._parser = _parser_of(
            content_type,
            on_part_begin=self._begin,
            on_header_field=self._header_name,
            on_header_value=self._header_value,
            on_header_end=self._header_end,
            on_headers_finished=self._headers_end,
            on_part_data=self._data,
            on_part_end=self._end,
            on_end=self._finish,
        )

    def feed(self, data: bytes) -> list[bytes]:
        """Raises MalformedForm, InvalidRequest, BodyTooLarge."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedForm(f"The form cannot be read: {error}.") from None
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> None:
        """Nothing more comes. Raises MalformedForm, InvalidRequest."""
        if not self._is_over:
            raise MalformedForm("The form has no end: its last boundary is missing.")
        if self.filename is None:
            raise InvalidRequest("file is missing")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"form has more than {MAX_PARTS} fields")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        if self._part.header:
            name = self._part.header.decode("latin-1").lower()
            self._part.headers[name] = bytearray()
            self._part.header = bytearray()
            self._part.name = name
        self._part.headers[self._part.name] += data[start:end]

    def _header_end(self) -> None:
        self._part.header = bytearray()

    def _headers_end(self) -> None:
        given = bytes(self._part.headers.get("content-disposition", b""))
        kind, options = parse_options_header(given)
        name, filename = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or name is None:
            raise MalformedForm("A field of the form has no name.")
        self._part.name = name.decode("utf-8", "replace")
        if self._part.name != "file":
            return
        if self.filename is not None:
            raise InvalidRequest("file is given twice; send it once")
        if filename is None:
            raise InvalidRequest("file must be a file, with a filename")
        shown = _NOT_IN_NAMES.sub("", filename.decode("utf-8", "replace"))
        self.filename = self._part.filename = shown[:MAX_FILENAME_CHARS] or "file"

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.filename is None:
            part.value += data[start:end]
            if len(part.value) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"{part.name[:64]} has more than {MAX_FIELD_BYTES} bytes")
            return
        self._file_bytes += end - start
        if self._file_bytes > self._max_file_bytes:
            raise too_large(self._max_file_bytes)
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        part = self._part
        if part.filename is None:
            if part.name in self.fields:
                raise InvalidRequest(f"{part.name[:64]} is given twice; send it once")
            try:
                self.fields[part.name] = part.value.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"{part.name[:64]} is not valid UTF-8") from None

    def _finish(self) -> None:
        self._is_over = True


def _parser_of(content_type: str, **callbacks: Any) -> MultipartParser:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaType(
            f"Content-Type is {content_type[:100]!r}; send multipart/form-data with a boundary."
        )
    given: Any = callbacks
    try:
        return MultipartParser(boundary, given, max_header_size=MAX_HEADER_BYTES)
    except FormParserError as error:
        raise MalformedForm(f"The form cannot be read: {error}.") from None


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The file is larger than {limit} bytes; send a smaller one or raise MAX_FILE_BYTES."
    )
