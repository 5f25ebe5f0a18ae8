"""The plans of local steps, which hide an example: with equal steps, correlated noise, or phases."""

from __future__ import annotations

from typing import TypeAlias

from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.phased_plan import PhasedPlan
from privacy.accounting.sampled_plan import SampledPlan

TrainingPlan: TypeAlias = SampledPlan | BandedPlan | PhasedPlan
