"""Blocks of the key-value cache are never lost, shared wrongly, or missing in the middle."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.errors import InvariantBroken
from app.runtimes.openvino_paged_blocks import BlockPool, Table

SIZE = 4
BLOCKS = 40


class Texts(RuleBasedStateMachine):
    """Requests that read a prompt, fork, go on and leave. `contents` says which token every place
    of every block holds, and each text compares its own tokens with them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, SIZE)
        self.contents: dict[tuple[int, int], int] = {}
        self.requests: list[dict[str, Any]] = []
        self.token = 0

    @rule(prompt=st.integers(1, 14), new=st.integers(1, 14), texts=st.integers(1, 4))
    def begin(self, prompt: int, new: int, texts: int) -> None:
        promised = self.pool.most_blocks(prompt + new, texts)
        if not self.pool.promise(promised):
            return
        request = {"tables": [Table()], "tokens": [[]], "left": new, "promised": promised}
        self.write(request, 0, prompt)
        request["texts"] = texts
        self.requests.append(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests))
        rows = len(request["tables"])
        parents = data.draw(
            st.lists(st.integers(0, rows - 1), min_size=1, max_size=request["texts"])
        )
        request["tables"], copies = self.pool.continue_from(request["tables"], parents)
        for source, target in copies:
            for place in range(SIZE):
                if (source, place) in self.contents:
                    self.contents[target, place] = self.contents[source, place]
        request["tokens"] = [list(request["tokens"][parent]) for parent in parents]
        if request["left"] == 0:
            self.leave(request)
            return
        request["left"] -= 1
        for at in range(len(parents)):
            self.write(request, at, 1)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave_early(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.requests)))

    def write(self, request: dict[str, Any], at: int, tokens: int) -> None:
        table = request["tables"][at]
        start = table.tokens
        self.pool.grow(table, tokens)
        for place in range(start, start + tokens):
            self.token += 1
            request["tokens"][at].append(self.token)
            self.contents[table.blocks[place // SIZE], place % SIZE] = self.token

    def leave(self, request: dict[str, Any]) -> None:
        for table in request["tables"]:
            self.pool.release(table)
        self.pool.take_back(request["promised"])
        self.requests = [one for one in self.requests if one is not request]

    @invariant()
    def every_text_finds_its_own_tokens(self) -> None:
        for request in self.requests:
            for table, tokens in zip(request["tables"], request["tokens"], strict=True):
                assert table.tokens == len(tokens)
                held = [
                    self.contents[table.blocks[n // SIZE], n % SIZE] for n in range(len(tokens))
                ]
                assert held == tokens

    @invariant()
    def a_block_is_free_or_held(self) -> None:
        held = {b for r in self.requests for table in r["tables"] for b in table.blocks}
        assert self.pool.free == BLOCKS - len(held)


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_more_than_there_is_cannot_be_promised():
    pool = BlockPool(3, SIZE)

    assert pool.promise(pool.most_blocks(9, 1))
    assert not pool.promise(1)
    pool.take_back(1)
    assert pool.promise(1)


def test_a_text_that_was_promised_nothing_fails_loudly():
    with pytest.raises(InvariantBroken):
        BlockPool(1, SIZE).grow(Table(), SIZE + 1)
