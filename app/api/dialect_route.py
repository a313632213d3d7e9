"""Routes of protocols that are not our own: whatever fails is answered in the protocol's shape."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NoReturn

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import services_of
from app.api.errors import InternalError, NoSuchRoute, WrongMethod
from app.api.plain_route import PlainRoute, methods_of
from app.core.errors import ServingError

log = structlog.get_logger("app.api")

ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class AlreadyCounted(Exception):
    """An input failed; the service has counted it."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error))
        self.error = error


class DialectRoute(PlainRoute):
    """Answers every failure of its endpoint by `refusal`."""

    @staticmethod
    @abstractmethod
    def refusal(request: Request, error: ServingError) -> Response:
        """The error, which may be a fault of ours, as a caller is told."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except AlreadyCounted as failed:
                return self.refusal(request, failed.error)
            except ServingError as error:
                refused = error
            except Exception as error:
                log.error("request_failed", exc_info=error)
                refused = InternalError()
            services_of(request).metrics.observe_rejected(refused.code)
            return self.refusal(request, refused)

        return answer


def nothing_here(request: Request, routers: Iterable[APIRouter]) -> NoReturn:
    """For what is at no other path of a protocol. Raises WrongMethod, or NoSuchRoute."""
    allowed = {method for router in routers for method in methods_of(router.routes, request)}
    if allowed:
        raise WrongMethod(request, allowed)
    raise NoSuchRoute("There is nothing at this path; GET / lists the routes.")
