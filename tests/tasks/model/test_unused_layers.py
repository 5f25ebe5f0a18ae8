"""What ``all-linear`` leaves out: layers that no text uses, and none that some texts use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tasks.model.unused_layers import find_unused
from tests.tasks.model.checkpoints import ENCODER, adapt, load, write_checkpoint


class Blocks(nn.Module):
    """Layers that are used, never called, called in vain, and used in one block of two."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.used, self.idle, self.vain = (nn.Linear(4, 4) for _ in range(3))
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        values = self.experts[1](self.used(self.embed(input_ids)))
        self.vain(values)
        return SimpleNamespace(logits=values * attention_mask[..., None])


def unused(model: nn.Module) -> tuple[str, ...]:
    return find_unused(model, padding=0, tokens=9, limit=None)


def test_layers_that_give_nothing_to_the_result_are_found() -> None:
    model = Blocks()
    assert unused(model) == ("idle", "vain")
    assert not any(module._forward_hooks for module in model.modules())


def test_where_nothing_can_be_differentiated_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no backward pass")

    monkeypatch.setattr(torch.autograd, "grad", fail)
    assert unused(Blocks()) == ()


def test_all_linear_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "EsmForMaskedLM", **ENCODER | {"mask_token_id": 1})
    adapted = adapt(folder, model={"pooling": "mean"})
    names = {slot.name for slot in adapted.layout.slots}
    assert not any("contact_head" in name for name in names)
    assert any("attention.self.query" in name for name in names)
    said = 'Texts do not use esm.contact_head.regression: "all-linear" leaves these layers out.'
    assert said in adapted.base.remarks
    assert load(folder, targets=("query",), model={"pooling": "mean"}).unused == ()
