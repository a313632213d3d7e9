"""What is left of a key's rates, in the headers that clients look for.

`RateLimit` and `RateLimit-Policy` of the IETF's draft; under /v1 also OpenAI's own.
"""

import math

from starlette.types import Message, Send

from app.keys.gcra import Gcra
from app.keys.limits import KeyMeter

Headers = list[tuple[bytes, bytes]]


def limit_headers(path: str, meter: KeyMeter, now: float) -> Headers:
    rates = [
        (short, long, rate)
        for short, long, rate in (
            ("req", "requests", meter.requests),
            ("tok", "tokens", meter.tokens),
        )
        if rate is not None
    ]
    if not rates:
        return []
    policy = ", ".join(f'"{name}";q={rate.limit};w={rate.window_s:.0f}' for name, _, rate in rates)
    left = ", ".join(
        f'"{name}";r={rate.free(now)};t={math.ceil(rate.reset_s(now))}' for name, _, rate in rates
    )
    found = [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
    if path.startswith("/v1/"):
        found += [header for _, name, rate in rates for header in _openai(name, rate, now)]
    return found


def _openai(name: str, rate: Gcra, now: float) -> Headers:
    values = {
        "limit": str(rate.limit),
        "remaining": str(rate.free(now)),
        "reset": f"{rate.reset_s(now):.3f}s",
    }
    return [(f"x-ratelimit-{what}-{name}".encode(), v.encode()) for what, v in values.items()]


def with_headers(send: Send, headers: Headers) -> Send:
    """They go out with the head of the answer."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with
