"""Property tests draw the same examples every time: a red run is red again on the next machine."""

import structlog
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("ci")

# Plain tracebacks: the default ones, in colours and boxes, take most of a failing batch's time.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
)
