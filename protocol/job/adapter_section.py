"""The job's ``[adapter]`` section: LoRA as PEFT knows it, and which of PEFT's other ways are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from protocol.job.section import COHORT_MAX, Section, by_shape
from protocol.plain_text import Word, quoted

_NO_PRODUCT = "its update is no product B · A, which is what strategies average and merge"
_READS_DATA = "it reads examples before the first step, which nothing accounts for"
_NORM = "its layers divide by a norm of their whole weight, so that no gradient of one example is found"

# What PEFT has beside LoRA, under the names that people write for it: none of it can be had.
_KINDS = {
    "adalora": "it moves rank between layers by what it sees of examples, so that sites differ in shape",
    "dora": _NORM,
    "loha": _NO_PRODUCT,
    "lokr": _NO_PRODUCT,
    "oft": _NO_PRODUCT,
    "boft": _NO_PRODUCT,
    "ia3": _NO_PRODUCT,
    "vera": "its vectors scale factors that all layers share, which no strategy merges",
    "qalora": "it averages a layer's inputs in groups, and is merged into quantized weights alone",
}
_INITS = {
    "eva": _READS_DATA,
    "corda": _READS_DATA,
    "lora_ga": _READS_DATA,
    "loftq": "it quantizes the base model, which is another model then",
    "gaussian": 'with rows that are not orthonormal no clipping norm fits all layers; use "orthonormal"',
}
# PEFT's own names for what is called otherwise here, or is not here.
_KEYS = {
    "r": 'it is called "rank" here',
    "lora_alpha": 'it is called "alpha" here',
    "lora_dropout": 'it is called "dropout" here',
    "use_rslora": 'it is scaling = "rslora" here',
    "init_lora_weights": 'it is called "init" here',
    "use_dora": f"DoRA is not supported: {_NORM}",
    "use_qalora": f"QA-LoRA is not supported: {_KINDS['qalora']}",
    "lora_bias": "a bias of LoRA's own does what the layer's does: use bias = \"lora_only\"",
    "modules_to_save": "which layers are trained whole follows from the task",
    "target_parameters": 'routed experts are named in target_modules, as "experts" or "experts.down_proj"',
    "trainable_token_indices": "a token's row has a gradient only from examples that have the token",
    "layer_replication": "a layer in several places has several gradients for one example",
    "loftq_config": f"LoftQ is not supported: {_INITS['loftq']}",
    "eva_config": f"EVA is not supported: {_READS_DATA}",
    "corda_config": f"CorDA is not supported: {_READS_DATA}",
}
_KIND_KEYS = ("kind", "type", "peft_type", "method")


def _kind_of_layers(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "str" if isinstance(value, str) else None


_Layers = Annotated[
    Annotated[list[Annotated[int, Field(ge=0, le=10_000)]], Field(max_length=1000), Tag("list")]
    | Annotated[Word, Tag("str")],
    by_shape(_kind_of_layers, 'expected numbers or "top 20%"'),
]
_Rank = Annotated[int, Field(ge=1, le=1024)]


def _kind_of_ranks(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "dict" if isinstance(value, dict) else None


_Ranks = Annotated[
    Annotated[list[_Rank], Field(min_length=1, max_length=COHORT_MAX), Tag("list")]
    | Annotated[dict[Word, _Rank], Field(min_length=1, max_length=COHORT_MAX), Tag("dict")],
    by_shape(_kind_of_ranks, "expected { SITE = 4 } or a list, in order of the sites' names"),
]
_Alpha = Annotated[float, Field(ge=1e-6, le=1e6)]
# The end of a layer's name. PEFT takes it for a regular expression, which a stranger may write so that it
# never ends: so there is nothing in it that repeats.
_Ending = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$", max_length=200)]


class AdapterSection(Section):
    """The LoRA adapter: s · B · A is added to each of the layers that it is on.

    Sources: Hu et al. 2021, LoRA (arXiv:2106.09685); Kalajdzievski 2023, rsLoRA (arXiv:2312.03732), for
    s = alpha / √rank; Meng et al. 2024, PiSSA (arXiv:2404.02948), and Büyükakyüz 2024, OLoRA
    (arXiv:2406.01775), for what A and B start as.
    """

    rank: _Rank = 4
    ranks: _Ranks | None = Field(
        None, description="ranks of the sites' own, up to the run's: { SITE = 4 }, or a list by their names"
    )
    alpha: _Alpha = 4.0
    scaling: Literal["lora", "rslora"] = Field(
        "lora", description="lora: alpha / rank; rslora: alpha / √rank, for high ranks"
    )
    rank_pattern: dict[_Ending, _Rank] = Field(
        default_factory=dict, max_length=1000, description="ranks of layers, by how their names end"
    )
    alpha_pattern: dict[_Ending, _Alpha] = Field(
        default_factory=dict, max_length=1000, description="alphas of layers, by how their names end"
    )
    init: Literal["orthonormal", "pissa", "olora"] = Field(
        "orthonormal",
        description="orthonormal: A drawn, B zero; pissa: singular vectors of the weight; olora: its QR",
    )
    bias: Literal["none", "lora_only", "all"] = Field(
        "none", description="biases that are trained too: those of adapted layers, or of all"
    )
    dropout: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    target_modules: list[Word] = Field(
        default_factory=list, max_length=1000, description='names of layers, or ["all-linear"]'
    )
    layers_to_transform: _Layers | None = Field(
        None, description='layer numbers, or "top 20%" to freeze the lower 80 %'
    )

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        """What PEFT has and this has not is refused by its name, with the reason."""
        if not isinstance(value, dict):
            return value
        for key in _KIND_KEYS:
            if key in value:
                name = str(value[key]).lower().replace("-", "").replace("_", "")
                why = _KINDS.get(name, "[adapter] describes LoRA: leave the key out")
                raise ValueError(f"{key}: {quoted(value[key])} is not supported: {why}")
        for key, otherwise in _KEYS.items():
            if key in value:
                raise ValueError(f"{key}: {otherwise}")
        init = value.get("init")
        if isinstance(init, str) and init.lower() in _INITS:
            raise ValueError(f"init: {quoted(init)} is not supported: {_INITS[init.lower()]}")
        return value

    @model_validator(mode="after")
    def _layers(self) -> AdapterSection:
        layers = self.layers_to_transform
        if isinstance(layers, str) and top_share(layers) is None:
            raise ValueError(f'layers_to_transform: expected numbers or "top 20%", got {layers!r}')
        if layers == []:
            raise ValueError("layers_to_transform: expected at least one layer, got []")
        return self

    @model_validator(mode="after")
    def _own_ranks(self) -> AdapterSection:
        if self.ranks is None:
            return self
        own = list(self.ranks.values()) if isinstance(self.ranks, dict) else self.ranks
        if max(own) > self.rank:
            raise ValueError(f"ranks: expected at most adapter.rank={self.rank} each, got {max(own)}")
        if self.rank_pattern or self.changes_base:
            raise ValueError(
                'ranks: expected no rank_pattern and init="orthonormal" beside them: a site with a smaller '
                "rank has the first rows of A and columns of B of every layer"
            )
        return self

    @property
    def changes_base(self) -> bool:
        """Whether A and B start as a part of the base model's weights, which is taken out of those."""
        return self.init != "orthonormal"

    def rank_of(self, layer: str) -> int:
        """The rank of the adapter on a layer, by the layer's whole name."""
        return next((rank for end, rank in self.rank_pattern.items() if ends(layer, end)), self.rank)

    def alpha_of(self, layer: str) -> float:
        """The alpha of the adapter on a layer, by the layer's whole name."""
        return next((alpha for end, alpha in self.alpha_pattern.items() if ends(layer, end)), self.alpha)

    def scale_of(self, layer: str) -> float:
        """What B · A is multiplied by on a layer."""
        rank = self.rank_of(layer)
        return self.alpha_of(layer) / (rank if self.scaling == "lora" else rank**0.5)

    def unmatched(self, layers: Iterable[str]) -> tuple[str, ...]:
        """The keys of both patterns, as ``rank_pattern.NAME``, that none of the layers' names ends with."""
        names = tuple(layers)
        return tuple(
            f"{key}.{end}"
            for key, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern))
            for end in pattern
            if not any(ends(name, end) for name in names)
        )


def no_adapter() -> AdapterSection:
    """The section of a job without any: it names no layers."""
    return AdapterSection.model_validate({})


def ends(layer: str, end: str) -> bool:
    """Whether a layer's name ends with an entry of a pattern, as PEFT's ``get_pattern_key`` has it."""
    return re.match(rf"(.*\.)?({end})$", layer) is not None


def top_share(layers: str) -> float | None:
    """The share in ``"top 20%"`` as 0.2, or None if it says something else."""
    words = layers.split()
    if len(words) != 2 or words[0] != "top" or not words[1].endswith("%"):
        return None
    try:
        percent = float(words[1][:-1])
    except ValueError:
        return None
    return percent / 100 if 0 < percent <= 100 else None
