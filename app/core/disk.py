"""What is wrong with a disk, in words for callers: nothing of paths."""

import errno

RETRY_S = 5.0
FULL = "The disk with the server's data is full; try again when there is room."
READ_ONLY = "The disk with the server's data is read-only; try again when it can be written."
BROKEN = (
    "The disk with the server's data cannot be read or written; the server's log has the reason."
)

_KNOWN = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL, errno.EROFS: READ_ONLY}


def words_for(error: OSError) -> str:
    return _KNOWN.get(error.errno or 0, BROKEN)
