"""How OpenVINO's threads live beside those of other workers."""

# By default each stream's threads stay on cores of their own. Every worker numbers its streams from
# the same core on: of two workers with a stream each, both computed on one core while the other
# idled.
UNPINNED = {"ENABLE_CPU_PINNING": False}
