"""A decoder's graph with its attention over blocks of a cache that we own, on the CPU.

OpenVINO itself turns a stateful decoder into such a graph: all texts of a step lie behind one
another in one row of tokens, and the keys and values of each lie in the blocks that its table
names. Logits are computed for the last token of those texts alone that are to be continued.
"""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13
from openvino._offline_transformations import paged_attention_transformation

from app.core.errors import CannotLoad
from app.runtimes.next_tokens import Floats
from app.runtimes.openvino_llm_files import LIBRARY_ERRORS, in_one_line

CACHES = ("key_cache.", "value_cache.")
CHOSEN = "chosen_rows"
LISTS = {
    "input_ids",
    "position_ids",
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
    CHOSEN,
}


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one text to read behind those that its blocks hold. blocks: with room for them.
    is_chosen: whether logits are wanted after the last."""

    tokens: Sequence[int]
    past: int
    blocks: Sequence[int]
    is_chosen: bool = True


class PagedModel:
    """One compiled graph, its cache and its request. One thread calls it."""

    def __init__(self, folder: Path, properties: Mapping[str, Any]) -> None:
        try:
            compiled = _compiled(folder, properties)
        except LIBRARY_ERRORS as error:
            raise CannotLoad(f"OpenVINO cannot read {folder}: {in_one_line(error)}") from error
        caches = {i.get_any_name(): i for i in compiled.inputs if _is_cache(i.get_any_name())}
        names = {i.get_any_name() for i in compiled.inputs} - set(caches)
        if not caches or names - LISTS:
            strange = ", ".join(sorted(names - LISTS)) or "none with a cache"
            raise CannotLoad(f"{folder} is no decoder that reads a text alone; inputs: {strange}")
        self._shapes = {
            name: ([d.get_length() for d in list(i.partial_shape)[1:]], i.element_type)
            for name, i in caches.items()
        }
        self.block_tokens = self._shapes["value_cache.0"][0][1]
        self.vocabulary: int = compiled.outputs[0].partial_shape[-1].get_length()
        self._caches: list[NDArray[np.uint8]] = []
        self._request = compiled.create_infer_request()
        self._names = names

    def give_cache(self, blocks: int) -> None:
        """Memory is taken from the machine as blocks are first written."""
        self._caches = []
        for name, (shape, element) in self._shapes.items():
            size = int(np.prod(shape)) * element.size
            pages = mmap.mmap(-1, blocks * size)
            memory = np.frombuffer(pages, np.uint8)
            self._caches.append(memory.reshape(blocks, size))
            self._request.set_tensor(name, _tensor_over(memory, [blocks, *shape], element))

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Each from one block to another, in all layers."""
        if not copies:
            return
        sources, targets = (list(side) for side in zip(*copies, strict=True))
        for cache in self._caches:
            cache[targets] = cache[sources]

    def read(self, parts: Sequence[Part]) -> Floats:
        """Logits after each chosen part, [chosen, vocabulary]; they are there until the next call.

        Other threads of the interpreter run meanwhile.
        """
        lists = _lists_of(parts)
        self._request.infer({name: lists[name] for name in self._names}, share_inputs=True)
        logits: Floats = self._request.get_output_tensor(0).data
        wanted = sum(part.is_chosen for part in parts)
        return logits.reshape(-1, self.vocabulary)[:wanted]


def _lists_of(parts: Sequence[Part]) -> dict[str, NDArray[Any]]:
    tokens: list[int] = []
    positions: list[int] = []
    blocks: list[int] = []
    begins, block_begins, chosen, longest = [0], [0], [], 0
    for part in parts:
        tokens += part.tokens
        length = part.past + len(part.tokens)
        positions += range(part.past, length)
        blocks += part.blocks
        begins.append(len(tokens))
        block_begins.append(len(blocks))
        longest = max(longest, length)
        if part.is_chosen:
            chosen.append(len(tokens) - 1)
    return {
        "input_ids": np.array(tokens, np.int64),
        "position_ids": np.array(positions, np.int64),
        "past_lens": np.array([part.past for part in parts], np.int32),
        "subsequence_begins": np.array(begins, np.int32),
        "block_indices": np.array(blocks, np.int32),
        "block_indices_begins": np.array(block_begins, np.int32),
        "max_context_len": np.array(longest, np.int32),
        CHOSEN: np.array(chosen or [0], np.int64),  # never without a row
    }


def _compiled(folder: Path, properties: Mapping[str, Any]) -> Any:
    core = ov.Core()
    model = core.read_model(folder / "openvino_model.xml")
    paged_attention_transformation(model)
    _choose_before_logits(model)
    return core.compile_model(model, "CPU", dict(properties))


def _choose_before_logits(model: Any) -> None:
    """The product with the vocabulary is by far the largest; most rows of a prompt need none."""
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        if not node.inputs():
            raise RuntimeError("the graph does not end in a product with the vocabulary")
        node = node.input_value(0).get_node()
    chosen = opset13.parameter([-1], np.int64, name=CHOSEN)
    chosen.output(0).get_tensor().set_names({CHOSEN})
    rows = opset13.gather(node.input_value(0), chosen, opset13.constant(0, dtype=np.int64))
    node.input(0).replace_source_output(rows.output(0))
    model.add_parameters([chosen])
    model.validate_nodes_and_infer_types()


def _is_cache(name: str) -> bool:
    return name.startswith(CACHES)


def _tensor_over(memory: NDArray[np.uint8], shape: list[int], element: Any) -> Any:
    return ov.Tensor(memory.view(element.to_dtype()).reshape(shape), ov.Shape(shape), element)
