"""What only the kernel knows of a connection; where it does not tell, nothing is assumed."""

import asyncio
import fcntl
import socket
import struct
import termios

_LEFT = frozenset({b"\x07", b"\x08"})  # TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp.h


def bytes_in_kernel(transport: asyncio.Transport) -> int:
    """Sent by us and not yet confirmed by the other side: megabytes, where it reads slowly."""
    try:
        connection = transport.get_extra_info("socket")
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):  # closed meanwhile, or another system
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count


def is_closed_by_peer(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed, also while we do not read."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    try:
        connection = transport.get_extra_info("socket")
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) in _LEFT
    except (OSError, ValueError):
        return False


def probe_when_silent(listening: socket.socket, silence_s: float) -> None:
    """Give clients up that answer no probe; connections inherit this from where they came in."""
    probes = 3
    interval_s = max(1, round(silence_s / (2 * probes)))
    options = {
        "TCP_KEEPIDLE": max(1, round(silence_s) - probes * interval_s),
        "TCP_KEEPINTVL": interval_s,
        "TCP_KEEPCNT": probes,
        "TCP_USER_TIMEOUT": round(1000 * silence_s),  # the same while something is sent
    }
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has each
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
