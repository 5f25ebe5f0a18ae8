"""The network for masks: MONAI's U-Net, and a layer that says each pixel's label."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SegmentationNetwork(nn.Module):
    """float32[b, channels, …] to logits, float32[b, labels, …], of images or, with 3 ``dims``, of volumes.

    Norms are over groups of one example's own channels: a norm over the batch would mix examples. Source:
    Ronneberger et al. 2015 (arXiv:1505.04597), in MONAI's form.
    """

    def __init__(self, *, channels: int, labels: list[str], widths: list[int], dims: int) -> None:
        super().__init__()
        from monai.networks.nets import UNet

        self.made_of = {"channels": channels, "labels": labels, "widths": widths, "dims": dims}
        self.body: Any = UNet(
            spatial_dims=dims,
            in_channels=channels,
            out_channels=widths[0],
            channels=widths,
            strides=[2] * (len(widths) - 1),
            norm=("GROUP", {"num_groups": 4}),
        )
        self.classifier = {2: nn.Conv2d, 3: nn.Conv3d}[dims](widths[0], len(labels), 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(values).relu())
        return logits
