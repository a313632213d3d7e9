"""Encoders on transformers: classifiers and rerankers (scores), embedders (vectors).

The reference for the other engines, so everything is the library's own: its class for the
architecture, its padding token, float32 on the CPU. `precision`, which every prepared artefact
names, is therefore without effect; the type of the numbers is the option `dtype`.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from app.core.errors import CannotLoad
from app.core.inference import TokenIds, Vectors
from app.runtimes.base import StreamPlan
from app.runtimes.torch_checkpoint import load_model, row_tokenizer
from app.runtimes.torch_device import compute, place


class TorchEncoder(ABC):
    """What both kinds share: padding, types of segments, device and threads.

    `run` may be called by `plan.streams` threads at once; on a GPU they take turns.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        kind_of_model: Any,
        *,
        plan: StreamPlan,
        max_tokens: int,
        device: str,
        dtype: str,
        unused: tuple[str, ...] = (),
    ) -> None:
        self.plan = plan
        self._placement = place(device, dtype)
        self.tokenizer = row_tokenizer(files, max_tokens)
        self._model = load_model(
            Path(files["model"]), kind_of_model, self._placement, unused=unused
        )
        config = self._model.config
        self._pad: int | None = getattr(config, "pad_token_id", None)
        takes_types = "token_type_ids" in inspect.signature(self._model.forward).parameters
        self._has_types = takes_types and (getattr(config, "type_vocab_size", None) or 0) > 1

    def group_of(self, settings: Any) -> Hashable:
        return None

    def probe(self, rows: Sequence[TokenIds]) -> None:
        self.run(rows)

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        """float32 [rows, width].

        settings: per row None, or its `second_from`: at which token a pair's second text begins.
        """
        if self._pad is None and len(rows) > 1:
            # Without a padding token a decoder cannot find a row's last token behind padding.
            told = settings or [None] * len(rows)
            each = [self.run([row], [how]) for row, how in zip(rows, told, strict=True)]
            return np.concatenate(each)
        inputs = self._inputs(rows, settings)

        def work() -> torch.Tensor:
            on_device = {name: tensor.to(self._placement.device) for name, tensor in inputs.items()}
            return self._outputs(on_device).float().cpu()

        vectors: Vectors = compute(self._placement, self.plan.threads, work).numpy()
        return vectors

    def _inputs(self, rows: Sequence[TokenIds], settings: Sequence[Any]) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(map(len, rows)))
        ids = torch.full(shape, self._pad or 0, dtype=torch.long)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
            mask[index, : len(row)] = 1
        for index, how in enumerate(settings):
            if how is not None:
                types[index, how.second_from : len(rows[index])] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs | {"token_type_ids": types} if self._has_types else inputs

    @abstractmethod
    def _outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[rows, width], of any type and on any device."""


class TorchScores(TorchEncoder):
    """One number per label: the logits as they leave the model's head.

    options: max_tokens, the longest row; device, dtype: app/runtimes/torch_device.py.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        device: str = "auto",
        dtype: str = "auto",
        precision: str = "fp32",
    ) -> None:
        super().__init__(
            files,
            AutoModelForSequenceClassification,
            plan=plan,
            max_tokens=max_tokens,
            device=device,
            dtype=dtype,
        )

    def _outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs).logits
        return logits


class TorchVectors(TorchEncoder):
    """One vector per row, pooled from those of its tokens, padding left out.

    options: as TorchScores; pooling: mean, cls or last; normalize: to length 1.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        pooling: str = "mean",
        normalize: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        precision: str = "fp32",
    ) -> None:
        if pooling not in POOLINGS:
            raise CannotLoad(f"option pooling is {pooling!r}; use {', '.join(POOLINGS)}")
        self._pool = POOLINGS[pooling]
        self._normalizes = normalize
        super().__init__(
            files,
            AutoModel,
            plan=plan,
            max_tokens=max_tokens,
            device=device,
            dtype=dtype,
            unused=("pooler.",),  # BERT's own pooling, for its training; often not in the file
        )

    def _outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        states = self._model(**inputs).last_hidden_state.float()
        vectors = self._pool(states, inputs["attention_mask"])
        return torch.nn.functional.normalize(vectors, dim=-1) if self._normalizes else vectors


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(dim=1) - 1]


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": _mean,
    "cls": _first,
    "last": _last,
}
