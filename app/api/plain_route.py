"""Routes whose endpoint takes the request and returns a response, and nothing else; and which
methods the routes of a path take."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match


class PlainRoute(APIRoute):
    """Documented and found like any route; nothing stands between the request and its endpoint.

    FastAPI solves the dependencies of an endpoint anew for each request, of ours there are none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def methods_of(routes: Iterable[BaseRoute], request: Request) -> set[str]:
    """What the path of the request does take, where it does not take its method."""
    return {
        method
        for route in _each(routes)
        if route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }


def _each(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """Those of included routers, too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from _each(included.routes)
