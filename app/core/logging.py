"""Structured logs: JSON lines on a pipe, readable on a terminal. Events, never inputs."""

import atexit
import json
import logging
import sys
from math import isfinite
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from app.core.log_writer import LogStream, LogWriter

_slow = json.JSONEncoder(default=repr)
_encode = msgspec.json.Encoder().encode
_writers: list[LogWriter] = []  # one per process: a second call goes on with it


def configure_logging(log_format: str, level: str) -> None:
    """Set up structlog for this process. log_format: `auto`, `json` or `console`.

    From then on nothing that is written to `sys.stderr` waits for its reader, tracebacks included.
    """
    writer = _writer_to_stderr()
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _render_json]
        if is_json
        else [structlog.dev.ConsoleRenderer(), _encoded]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _one_line_events,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: _LineLogger(writer),
        cache_logger_on_first_use=True,
    )


class _LineLogger:
    """What structlog gives rendered lines to, by the name of their level."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def msg(self, line: bytes) -> None:
        self._writer.write(line + b"\n")

    debug = info = warning = error = critical = exception = msg


def _writer_to_stderr() -> LogWriter:
    if not _writers:
        stderr: Any = sys.stderr
        writer = LogWriter(stderr.fileno(), _tell_of_dropped)
        sys.stderr = stream = LogStream(writer, stderr)
        _writers.append(writer)
        atexit.register(writer.close)
        atexit.register(stream.flush)  # before: the last is called first
    return _writers[0]


def _tell_of_dropped(lines: int) -> None:
    # An error, so that it is seen at every level: errors may be among them.
    structlog.get_logger().error("log_lines_dropped", lines=lines)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    """What json.dumps makes of it, in a third of its time."""
    try:
        parts = [_encode(key) + b": " + _value(value) for key, value in event.items()]
        line = b"{" + b", ".join(parts) + b"}"
    except (TypeError, ValueError):  # half of a surrogate pair
        line = b""
    # Beyond ASCII there are characters that end a line, or move a terminal's cursor.
    is_plain = line and line.isascii() and b"\x7f" not in line
    return line if is_plain else _slow.encode(event).encode()


def _value(value: object) -> bytes:
    kind = type(value)
    if kind is str or kind is int:
        return _encode(value)
    if kind is float and isfinite(value):  # type: ignore[arg-type]
        return repr(value).encode()
    return _slow.encode(value).encode()


def _encoded(_: WrappedLogger, __: str, line: Any) -> bytes:
    return str(line).encode("utf-8", "backslashreplace")


def _one_line_events(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A caller's CR or LF must not forge a line on a console; JSON escapes them anyway."""
    return {
        key: value.replace("\r", "\\r").replace("\n", "\\n") if _is_forgeable(key, value) else value
        for key, value in event.items()
    }


def _is_forgeable(key: str, value: object) -> bool:
    return isinstance(value, str) and key != "exception"
