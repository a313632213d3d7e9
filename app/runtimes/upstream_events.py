"""Server-sent events out of the bytes of another server's stream, of bounded size."""

from app.core.errors import ModelUnavailable

MOST_EVENT_BYTES = 2**20


class EndlessEvent(ModelUnavailable):
    """The model's server sent an event without an end."""


class EventReader:
    """Give it bytes as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._bytes = 0  # of `_data`

    def feed(self, content: bytes) -> list[bytes]:
        """The data of every event that is whole now. Raises EndlessEvent."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        events = [event for line in lines if (event := self._line(line.rstrip(b"\r")))]
        if len(self._rest) + self._bytes > MOST_EVENT_BYTES:
            raise EndlessEvent
        return events

    def _line(self, line: bytes) -> bytes | None:
        """The data of the event that this line ends. Comments and other fields say nothing."""
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._data.append(data)
            self._bytes += len(data)
            return None
        if line or not self._data:
            return None
        event, self._data, self._bytes = b"\n".join(self._data), [], 0
        return event
