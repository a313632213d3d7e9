"""Structured logs: JSON lines on a pipe, readable on a terminal. Events, never inputs."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure_logging(log_format: str, level: str) -> None:
    """Set up structlog for this process. log_format: `auto`, `json` or `console`."""
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if is_json
        else [structlog.dev.ConsoleRenderer()]
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _one_line_events(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A caller's CR or LF must not forge a line on a console; JSON escapes them anyway."""
    return {
        key: value.replace("\r", "\\r").replace("\n", "\\n") if _is_forgeable(key, value) else value
        for key, value in event.items()
    }


def _is_forgeable(key: str, value: object) -> bool:
    return isinstance(value, str) and key != "exception"
