"""Who holds which blocks of the key-value cache. No library here.

A block holds the keys and values of some consecutive tokens of a text. Texts that begin alike
share the full blocks of their beginning; the last block, which still fills, is each text's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.core.errors import InvariantBroken


@dataclass(slots=True)
class Table:
    """A text's blocks, in the order of the text, and how many tokens they hold."""

    blocks: list[int] = field(default_factory=list)
    tokens: int = 0


class BlockPool:
    """Blocks are promised before a text begins, so that none is missing in the middle of it."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._free = list(range(blocks))[::-1]  # the lowest first: memory untouched stays so
        self._holders = [0] * blocks
        self._unpromised = blocks

    @property
    def free(self) -> int:
        return len(self._free)

    def most_blocks(self, tokens: int, texts: int) -> int:
        """What some texts of so many tokens can ever hold, two generations of last blocks
        included: those of the texts that go on, and of those that they go on from."""
        full = -(-tokens // self.block_tokens)
        return texts * full + (texts if texts > 1 else 0)

    def promise(self, blocks: int) -> bool:
        """Whether so many are still to be had; they are then set aside."""
        if blocks > self._unpromised:
            return False
        self._unpromised -= blocks
        return True

    def take_back(self, blocks: int) -> None:
        """A promise that is no longer needed."""
        self._unpromised += blocks

    def grow(self, table: Table, tokens: int) -> None:
        """Make room for more tokens, and count them as held."""
        table.tokens += tokens
        while len(table.blocks) * self.block_tokens < table.tokens:
            table.blocks.append(self._take())

    def fork(self, table: Table) -> tuple[Table, tuple[int, int] | None]:
        """A second text with the same beginning, and what is to be copied: from block, to block."""
        partial = table.tokens % self.block_tokens != 0
        shared = table.blocks[:-1] if partial else list(table.blocks)
        for block in shared:
            self._holders[block] += 1
        if not partial:
            return Table(shared, table.tokens), None
        own = self._take()
        return Table([*shared, own], table.tokens), (table.blocks[-1], own)

    def release(self, table: Table) -> None:
        for block in table.blocks:
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)
        table.blocks = []
        table.tokens = 0

    def continue_from(
        self, tables: Sequence[Table], parents: Sequence[int]
    ) -> tuple[list[Table], list[tuple[int, int]]]:
        """The tables of the texts that go on, each from one of the texts before, and the blocks to
        copy. Texts that nobody goes on from give back theirs."""
        going: list[Table] = []
        copies: list[tuple[int, int]] = []
        moved: set[int] = set()
        for parent in parents:
            if parent not in moved:
                moved.add(parent)
                going.append(tables[parent])
                continue
            table, copy = self.fork(tables[parent])
            going.append(table)
            if copy is not None:
                copies.append(copy)
        for at, table in enumerate(tables):
            if at not in moved:
                self.release(table)
        return going, copies

    def _take(self) -> int:
        if not self._free:
            raise InvariantBroken("the key-value cache has no block left for a text that began")
        block = self._free.pop()
        self._holders[block] = 1
        return block
