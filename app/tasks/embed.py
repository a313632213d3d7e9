"""Text to vector."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.types import Answer, Usage
from app.tasks.base import Prepared, Tokenizer
from app.tasks.rows import single_row, single_vector


class Embed:
    """The model's normalised sentence vector, as it leaves the runtime."""

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        return single_row(text, parameters, tokenizer, "embedder")

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        vector = single_vector(outputs)
        return Answer(
            vector.tolist(),
            {"dimensions": vector.size, **prepared.state.metadata()},
            Usage(input_tokens=prepared.input_tokens),
        )
