"""A trained network of a task's own as a folder that torch, safetensors and its own program load."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WEIGHTS, MADE_OF, PROGRAM = "network.safetensors", "network.json", "network.py"

_LOADER = '''

def load(folder: str) -> {name}:
    """The trained network of this folder, ready to be used."""
    import json
    from pathlib import Path

    from safetensors.torch import load_file

    network = {name}(**json.loads((Path(folder) / "{made_of}").read_text("utf-8"))["made_of"])
    network.load_state_dict(load_file(Path(folder) / "{weights}"))
    return network.eval()
'''


def write_network(
    network: Any,
    folder: Path,
    *,
    inputs: Sequence[str],
    loader: str = _LOADER,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write its weights, what it is made of, what ``inputs`` say, and its own source with a ``loader``.

    The module that the network's class stands in imports torch, and nothing of ours. In the loader stand
    the class and the files, and ``names`` of its own, by what they are called in it.
    """
    from safetensors.torch import save_file

    kind = type(network)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    table = {"made_of": network.made_of, "inputs": list(inputs)}
    (folder / MADE_OF).write_text(json.dumps(table, indent=1, ensure_ascii=False), "utf-8")
    source = Path(inspect.getfile(kind)).read_text("utf-8")
    known = {"name": kind.__name__, "made_of": MADE_OF, "weights": WEIGHTS} | dict(names or {})
    (folder / PROGRAM).write_text(source + loader.format(**known), "utf-8")
