"""Which tests pytest-xdist runs one after the other, in the same process.

Whole servers and the generator use every processor: two at a time would wait for each other.
Elsewhere the tests of a file share fixtures, but for those of processes, most of which wait.
"""

from xdist.scheduler import LoadScopeScheduling


def group_of(nodeid: str) -> str:
    """nodeid: `tests/<folder>/.../<file>::<test>`, as pytest names a test."""
    file, _, _ = nodeid.partition("::")
    match file.split("/")[1]:
        case "e2e" | "generator":
            return "computing"
        case "process":
            return nodeid
        case _:
            return file


class Groups(LoadScopeScheduling):  # its own `loadgroup` has no effect with pytest 9
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
