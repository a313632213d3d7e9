"""Property tests draw the same examples every time: a red run is red again on the next machine."""

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("ci")
