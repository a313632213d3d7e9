"""Routes whose endpoint takes the request and returns a response, and nothing else."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class PlainRoute(APIRoute):
    """Documented and found like any route; nothing stands between the request and its endpoint.

    FastAPI solves the dependencies of an endpoint anew for each request, of ours there are none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler
