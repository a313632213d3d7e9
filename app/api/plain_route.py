"""Routes whose endpoint takes the request and returns a response, and nothing else; and which
methods the routes of a path take."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match


class PlainRoute(APIRoute):
    """Documented and found like any route; nothing stands between the request and its endpoint.

    FastAPI solves the dependencies of an endpoint anew for each request, of ours there are none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def methods_of(router: APIRouter, request: Request) -> set[str]:
    """What the path of the request does take, where it does not take its method."""
    routes = (route for route in router.routes if isinstance(route, APIRoute))
    return {
        method
        for route in routes
        if route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
