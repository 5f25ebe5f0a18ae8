"""What is tried on each family: all tasks, adapters in upper layers alone, and on all linear layers."""

from __future__ import annotations

CLASSIFIER, MEAN, CAUSAL = "classifier", "mean", "causal-lm"
TASKS = (CLASSIFIER, MEAN, CAUSAL)
TOP, ALL_LINEAR = "top layers", "all-linear"
TRIALS = (*TASKS, TOP, ALL_LINEAR)
