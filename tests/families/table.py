"""The table of families, whole: what works, and what is refused by name."""

from __future__ import annotations

from tests.families.decoders import DECODERS
from tests.families.encoders import ENCODERS
from tests.families.mixtures import MIXTURES
from tests.families.recurrent import RECURRENT
from tests.families.towers import TOWERS

FAMILIES = (*ENCODERS, *DECODERS, *MIXTURES, *RECURRENT, *TOWERS)
