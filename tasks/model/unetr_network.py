"""The network for masks that is transformer and convolutions both: UNETR, by MONAI's blocks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIDE = 16  # of a patch, in pixels or voxels


class UnetrNetwork(nn.Module):
    """float32[b, channels, …] to logits, float32[b, labels, …], of images or, with 3 ``dims``, of volumes.

    Patches of 16 a side attend to one another in four layers. What each of them finds goes to the
    convolutions, as what layers 3, 6, 9 and 12 find does in the paper. Positions are fixed waves. Norms are
    over one token, or over groups of one example's own channels, and have nothing to learn: MONAI's blocks
    overwrite what a norm gives, and a norm that learned would have no gradients of single examples.

    Source: Hatamizadeh et al. 2022 (arXiv:2103.10504), figure 2.
    """

    def __init__(
        self, *, channels: int, labels: list[str], width: int, hidden: int, heads: int, dims: int
    ) -> None:
        super().__init__()
        from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        self.made_of = {
            "channels": channels,
            "labels": labels,
            "width": width,
            "hidden": hidden,
            "heads": heads,
            "dims": dims,
        }
        norm = ("GROUP", {"num_groups": 4, "affine": False})
        block: dict[str, Any] = {
            "spatial_dims": dims,
            "kernel_size": 3,
            "norm_name": norm,
            "res_block": True,
        }
        up = block | {"upsample_kernel_size": 2}
        lone = up | {"in_channels": hidden, "stride": 1, "conv_block": True}
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.embedding = convolution(channels, hidden, SIDE, stride=SIDE)
        self.layers = nn.ModuleList(_Layer(hidden, heads) for _ in range(4))
        self.on_whole = UnetrBasicBlock(in_channels=channels, out_channels=width, stride=1, **block)
        self.on_half = UnetrPrUpBlock(out_channels=2 * width, num_layer=2, **lone)
        self.on_quarter = UnetrPrUpBlock(out_channels=4 * width, num_layer=1, **lone)
        self.on_eighth = UnetrPrUpBlock(out_channels=8 * width, num_layer=0, **lone)
        self.to_eighth = UnetrUpBlock(in_channels=hidden, out_channels=8 * width, **up)
        self.to_quarter = UnetrUpBlock(in_channels=8 * width, out_channels=4 * width, **up)
        self.to_half = UnetrUpBlock(in_channels=4 * width, out_channels=2 * width, **up)
        self.to_whole = UnetrUpBlock(in_channels=2 * width, out_channels=width, **up)
        self.classifier = convolution(width, len(labels), 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        patches = self.embedding(values)
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + _waves(grid, width=tokens.shape[2], like=tokens)
        found = []
        for layer in self.layers:
            tokens = layer(tokens)
            maps = _normed(tokens).transpose(1, 2).reshape(len(values), -1, *grid)
            # With channels last in memory, as they are now, Opacus finds wrong gradients of convolutions.
            found.append(maps.clone(memory_format=torch.contiguous_format))
        up = self.to_eighth(found[3], self.on_eighth(found[2]))
        up = self.to_quarter(up, self.on_quarter(found[1]))
        up = self.to_half(up, self.on_half(found[0]))
        logits: torch.Tensor = self.classifier(self.to_whole(up, self.on_whole(values)))
        return logits


class _Layer(nn.Module):
    """Attention among tokens, float32[b, n, width], and two linear layers on each, added to what was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attended = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # [b, n, 3 · width] to three of [b, heads, n, width / heads].
        made = self.attended(_normed(tokens))
        split = made.reshape(*made.shape[:2], 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / key.shape[3] ** 0.5).softmax(-1)
        tokens = tokens + self.mixed((weights @ value).transpose(1, 2).flatten(2))
        changed: torch.Tensor = tokens + self.narrow(functional.gelu(self.wide(_normed(tokens))))
        return changed


def _normed(tokens: torch.Tensor) -> torch.Tensor:
    """Each token by its own mean and deviation."""
    return functional.layer_norm(tokens, tokens.shape[-1:])


def _waves(grid: torch.Size, *, width: int, like: torch.Tensor) -> torch.Tensor:
    """Where each token is, float32[n, width]: sines and cosines along each axis, and zeros in what is left.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.
    """
    each = width // (2 * len(grid))
    rates = torch.exp(torch.arange(each, device=like.device) * (-math.log(100.0) / each))
    axes = (torch.arange(side, device=like.device) for side in grid)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    angles = (places[:, :, None] * rates).flatten(1)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return functional.pad(waves, (0, width - waves.shape[1])).to(like.dtype)
