"""`python -m app.models.hub`: one job for the hub's client, as an errand."""

import sys
from typing import Any

from app.core.errands import Tell, serve_errand
from app.models.hub.asking import describe
from app.models.hub.fetching import fetch
from app.models.hub.jobs import DescribeJob, FetchJob, Job


def work(job: Job, tell: Tell) -> Any:
    match job:
        case DescribeJob():
            return describe(job, tell)
        case FetchJob():
            return str(fetch(job, tell))


if __name__ == "__main__":
    sys.exit(serve_errand(Job, work))  # type: ignore[arg-type]  # a union of two Structs
