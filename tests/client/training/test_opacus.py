"""Of Opacus only the parts are used whose results were found correct."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from client.training.gradients import HookedGradients
from tests.models import CASES

ROOT = Path(__file__).parents[3]
PACKAGES = ("confide", "simulation", "server", "client", "strategies", "protocol", "privacy")


def imported_from_opacus() -> Iterator[str]:
    """What the project's own packages import, as ``module.name``."""
    for path in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.startswith("opacus"))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opacus"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_its_default_accountant_and_its_ghost_clipping_are_not_used() -> None:
    # Its Gaussian accountant can underestimate ε, its search for noise truncates the number of steps,
    # its ghost clipping reuses the norms of the batch before, its adaptive clipping divides by the
    # actual batch size. Its PRV accountant is sound, and a cross-check.
    assert set(imported_from_opacus()) == {
        "opacus.accountants.PRVAccountant",
        "opacus.grad_sample.GradSampleHooks",
        "opacus.optimizers.DPOptimizer",
    }


def test_its_hooks_leave_the_methods_of_peft_in_reach() -> None:
    adapted = CASES["llama-qv"].adapted()

    HookedGradients(adapted)

    assert adapted.peft.peft_config["default"].r == 2
    assert callable(adapted.peft.save_pretrained)
