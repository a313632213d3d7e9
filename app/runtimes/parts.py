"""A batch in parts, where all of it at once would need too much memory."""

from collections.abc import Iterator, Sequence

HELD_TOKENS = 8192  # of all beams of the texts that are written at once: 0.8 GB for BART-large


def parts(
    lengths: Sequence[int], most_read: int, held: Sequence[int], most_held: int
) -> Iterator[Sequence[int]]:
    """Places of rows that are run at once, alike in length. A row that exceeds a limit is alone.

    lengths: tokens of each source, filled up to the longest of its part, which together may have
    `most_read`. held: of each row (`Decoding.held_tokens`), together `most_held`.
    """
    part: list[int] = []
    holding = 0
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        is_full = (len(part) + 1) * lengths[at] > most_read or holding + held[at] > most_held
        if part and is_full:
            yield part
            part, holding = [], 0
        part.append(at)
        holding += held[at]
    if part:
        yield part
