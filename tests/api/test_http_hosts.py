"""Which host names the server answers for."""

import pytest

from tests.api.serving import serving

pytestmark = pytest.mark.asyncio


def get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/models", "models.example:8000", 200),
        ("/models", "LOCALHOST", 200),
        ("/models", "stranger.example", 421),
        ("/models", "models.example.stranger.example", 421),
        ("/docs", "stranger.example", 421),
        ("/health/ready", "10.0.0.7:8000", 200),
    ],
)
async def test_only_the_allowed_names_are_answered_probes_aside(path, host, status):
    async with serving(allowed_hosts="models.example, localhost") as running:
        answer = await running.talk(get(path, host))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b'"code":"misdirected"' in answer) == (status == 421)


async def test_any_name_is_answered_by_default():
    async with serving() as running:
        answer = await running.talk(get("/models", "stranger.example"))

    assert answer.startswith(b"HTTP/1.1 200 ")
