"""What each route asks of its caller. What is not in the table takes any known caller, so that
strangers cannot find out what there is."""

import re
from collections.abc import Mapping
from enum import Enum

from starlette.routing import compile_path

from app.keys.key import Scope


class Open(Enum):
    """Routes without a scope."""

    TO_ALL = "to all"
    TO_CALLERS = "to all who are known"


Access = Scope | Open

# Open to all is what orchestrators ask, and the documentation, which is the same everywhere.
ROUTES: Mapping[str, Access] = {
    "GET /": Open.TO_ALL,
    "GET /docs": Open.TO_ALL,
    "GET /docs/{name}": Open.TO_ALL,
    "GET /openapi.json": Open.TO_ALL,
    "GET /health": Open.TO_ALL,
    "GET /health/live": Open.TO_ALL,
    "GET /health/ready": Open.TO_ALL,
    "GET /health/startup": Open.TO_ALL,
    "GET /v2/health/live": Open.TO_ALL,
    "GET /v2/health/ready": Open.TO_ALL,
    "POST /infer": Scope.INFER,
    "POST /infer/batch": Scope.INFER,
    "GET /models": Scope.MODELS_READ,
    "GET /metrics": Scope.METRICS,
    "POST /v1/chat/completions": Scope.INFER,
    "POST /v1/completions": Scope.INFER,
    "POST /v1/responses": Scope.INFER,
    "POST /v1/embeddings": Scope.INFER,
    "POST /v1/rerank": Scope.INFER,
    "POST /v1/score": Scope.INFER,
    "POST /v1/classify": Scope.INFER,
    "POST /v1/files": Scope.JOBS,
    "GET /v1/files": Scope.JOBS,
    "GET /v1/files/{file_id}": Scope.JOBS,
    "DELETE /v1/files/{file_id}": Scope.JOBS,
    "GET /v1/files/{file_id}/content": Scope.JOBS,
    "POST /v1/batches": Scope.JOBS,
    "GET /v1/batches": Scope.JOBS,
    "GET /v1/batches/{batch_id}": Scope.JOBS,
    "POST /v1/batches/{batch_id}/cancel": Scope.JOBS,
    "GET /v1/models": Scope.MODELS_READ,
    "GET /v1/models/{model_name}": Scope.MODELS_READ,
    "ANY /v1/{rest:path}": Open.TO_CALLERS,
    "GET /v2": Scope.MODELS_READ,
    "GET /v2/models/{model_name}": Scope.MODELS_READ,
    "GET /v2/models/{model_name}/ready": Scope.MODELS_READ,
    "GET /v2/models/{model_name}/versions/{model_version}": Scope.MODELS_READ,
    "GET /v2/models/{model_name}/versions/{model_version}/ready": Scope.MODELS_READ,
    "POST /v2/models/{model_name}/infer": Scope.INFER,
    "POST /v2/models/{model_name}/versions/{model_version}/infer": Scope.INFER,
    "POST /v2/repository/index": Scope.MODELS_READ,
    "POST /v2/repository/models/{model_name}/load": Scope.MODELS_WRITE,
    "POST /v2/repository/models/{model_name}/unload": Scope.MODELS_WRITE,
    "ANY /v2/{rest:path}": Open.TO_CALLERS,
    "POST /jobs": Scope.JOBS,
    "GET /jobs": Scope.JOBS,
    "GET /jobs/{job_id}": Scope.JOBS,
    "DELETE /jobs/{job_id}": Scope.JOBS,
    "GET /jobs/{job_id}/events": Scope.JOBS,
    "GET /usage": Open.TO_CALLERS,
    "POST /admin/keys": Scope.ADMIN,
    "GET /admin/keys": Scope.ADMIN,
    "GET /admin/keys/{key_name}": Scope.ADMIN,
    "PATCH /admin/keys/{key_name}": Scope.ADMIN,
    "DELETE /admin/keys/{key_name}": Scope.ADMIN,
    "POST /admin/keys/{key_name}/rotate": Scope.ADMIN,
    "GET /admin/audit": Scope.ADMIN,
}

METHODS: Mapping[str, Access] = {
    "ServerLive": Open.TO_ALL,
    "ServerReady": Open.TO_ALL,
    "ServerMetadata": Scope.MODELS_READ,
    "ModelReady": Scope.MODELS_READ,
    "ModelMetadata": Scope.MODELS_READ,
    "ModelInfer": Scope.INFER,
    "RepositoryIndex": Scope.MODELS_READ,
    "RepositoryModelLoad": Scope.MODELS_WRITE,
    "RepositoryModelUnload": Scope.MODELS_WRITE,
}
"""Of gRPC."""


class AccessTable:
    """Finds the entry of a request before it is routed. Paths without braces cost a look-up."""

    def __init__(self, routes: Mapping[str, Access]) -> None:
        self._exact: dict[tuple[str, str], Access] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Access]]] = {}
        for route, access in routes.items():
            method, _, path = route.partition(" ")
            if "{" in path:
                pattern, *_ = compile_path(path)
                self._patterns.setdefault(method, []).append((pattern, access))
            else:
                self._exact[method, path] = access

    def of(self, method: str, path: str) -> Access:
        found = self._exact.get((method, path))
        if found is not None:
            return found
        for pattern, access in self._patterns.get(method, ()):
            if pattern.match(path):
                return access
        return Open.TO_CALLERS
