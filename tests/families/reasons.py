"""Why a family is refused, in the words of the error, and for people who choose a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """``words`` are in the message of the error; ``about`` is what the documentation says of it."""

    key: str
    words: str
    about: str


BOTH_WAYS = Reason(
    key="both ways",
    words="sees the tokens that it should guess",
    about="It reads a text in both directions, and so sees the tokens that a language model should guess.",
)
NO_LANGUAGE_MODEL = Reason(
    key="no language model",
    words="is no language model that reads a text from its beginning alone",
    about="transformers has no causal language model of this family.",
)
OTHER_WEIGHTS = Reason(
    key="other weights",
    words="the weights lack",
    about="The checkpoint was saved as another class, and lacks what this task needs.",
)
PADDING = Reason(
    key="padding",
    words="changes with the padding after it",
    about="What it makes of a text changes with the padding after it, so it would be trained on something "
    "else than it is used on.",
)
UNUSED = Reason(
    key="unused layers",
    words="took no part in the loss",
    about="Some of the layers take no part in what is computed of a text; the message names others.",
)
EXPERTS = Reason(
    key="experts",
    words="PEFT puts LoRA elsewhere",
    about="PEFT would put LoRA on routed experts in place of the shared ones: name other layers.",
)
NO_LIST = Reason(
    key="no list",
    words="has no plain list of its layers",
    about="Its layers share weights or are nested, so none can be chosen by number: adapt all of them.",
)
KERNELS = Reason(
    key="kernels",
    words="is incompatible with Mamba-based models",
    about="Its kernels read the weights of some layers without calling them: name others.",
)
END_OF_TEXT = Reason(
    key="end of text",
    words="classifies a text by its end-of-text token",
    about="It classifies a text by its end-of-text token, which not every text has; "
    '`model.pooling = "mean"` does without.',
)
NO_LINEAR = Reason(
    key="no linear layers",
    words="has no linear layers",
    about="It has no linear layers of PyTorch's that LoRA could be added to.",
)
NOT_RUN = Reason(
    key="not run",
    words="cannot be run on",
    about="It cannot be run on texts alone, or only on such of certain lengths.",
)
NOT_LOADED = Reason(
    key="not loaded",
    words="could not be loaded",
    about="transformers itself cannot load it for this.",
)
NO_TEXT = Reason(
    key="no text",
    words="has no embedding of tokens",
    about="It reads no tokens.",
)
CONVOLUTIONS = Reason(
    key="convolutions",
    words="expected the names of linear layers under the head",
    about="These modules are convolutions in groups, into which B · A cannot be merged; the message names "
    "others.",
)
NO_BACKBONE = Reason(
    key="no backbone",
    words="has no backbone alone",
    about="transformers has no model of this family without a head of its own.",
)
