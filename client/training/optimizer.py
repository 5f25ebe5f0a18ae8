"""Opacus' DP optimizer with this project's noise, and with bounds that hold in mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from client.training.adaptive_norm import AdaptiveNorm
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.phased_plan import PhasedPlan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.banded_noise import COARSE_STEPS
from privacy.mechanisms.clipping import STEPS, ClippedSum
from privacy.mechanisms.counted_sum import GRADIENT_STEPS, CountedSum
from privacy.mechanisms.factored_clipping import clip_found
from privacy.mechanisms.factored_gradients import Factors
from privacy.mechanisms.rng import NoiseSource
from protocol.processes.time_spent import Part, timed


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How a step clips: each example to ``bound`` in the L1 or L2 ``norm``, which is so many ``steps``."""

    bound: float
    norm: int
    steps: float

    def of(self, gradients: Sequence[Tensor | Factors]) -> ClippedSum:
        """The clipped sum of per-example gradients, [n, *shape] a parameter: see ``clip_found``."""
        return clip_found(gradients, bound=self.bound, norm=self.norm, steps=self.steps)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus' types are not followed
    """Clips each example, sums, adds the plan's noise once, divides by the expected batch size.

    Guarantee: before noise, one example changes the sum by at most ``plan.clipping_norm`` in the
    mechanism's norm, whatever its gradient, and depending on nothing else: a non-finite one counts as zero.

    It differs from Opacus' optimizer in four places. Sum and noise are integers on a fixed grid, and only
    the noisy sum is a float. Noise comes from a ``NoiseSource`` and not from torch's generator, and its
    size from the clipped sum. Norms are those of ``clip_found``: a bfloat16 norm is off by up to 0.4 %,
    and clipping by it would break the bound. For Laplace noise the L1 norm is clipped.

    With an ``adaptive`` norm a step clips to that and is in units of it, so that it is as long whatever the
    norm is; the plan's clipping norm is 1 then, and the noise is for a count as well, which moves the norm.
    """

    source: NoiseSource  # set before each step
    # What adds the step's noise under a plan with bands; set before each step.
    correlated: Callable[[ClippedSum], Sequence[Tensor]] | None = None

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        plan: SampledPlan,
        expected_batch_size: int,
        adaptive: AdaptiveNorm | None = None,
    ) -> None:
        if isinstance(plan, PhasedPlan):
            raise PrivacyUnitError("expected the plan of a round's steps, got that of a run's phases")
        super().__init__(
            optimizer,
            noise_multiplier=plan.mechanism.multiplier,
            max_grad_norm=plan.clipping_norm,
            expected_batch_size=expected_batch_size,
        )
        self._mechanism = plan.mechanism
        self._banded = isinstance(plan, BandedPlan)
        self.adaptive = adaptive
        if adaptive is not None and (self._banded or plan.clipping_norm != 1.0):
            raise PrivacyUnitError(
                "expected independent noise and clipping_norm=1 with a norm that follows a quantile, got "
                f"clipping_norm={plan.clipping_norm}"
            )
        self._clipped: ClippedSum | None = None
        self.zeroed_examples = 0

    def _get_flat_grad_sample(self, p: Parameter) -> Tensor | Factors:
        held = vars(p).get("grad_sample")
        return held if isinstance(held, Factors) else super()._get_flat_grad_sample(p)

    @timed(Part.CLIPPING)
    def clip_and_accumulate(self) -> None:
        """Clip and add up the gradients of one physical batch."""
        gradients = [parameter.grad_sample for parameter in self.params]
        if any(isinstance(gradient, list) for gradient in gradients):
            raise PrivacyUnitError("two backward passes without a step between: not one batch")
        self.add(self.clipping.of(gradients))
        for parameter in self.params:
            # In the sum now: a step without a backward pass before it must not add them again.
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))

    @property
    def clipping(self) -> Clipping:
        """How the step that comes clips: the same for all its examples, wherever they are computed."""
        steps = COARSE_STEPS if self._banded else STEPS if self.adaptive is None else GRADIENT_STEPS
        bound = self.max_grad_norm if self.adaptive is None else self.adaptive.value
        return Clipping(bound=bound, norm=self._mechanism.norm, steps=steps)

    def add(self, clipped: ClippedSum) -> None:
        """Add a sum of the step's examples. Raises PrivacyUnitError if they were clipped otherwise."""
        self.zeroed_examples += clipped.zeroed
        self._clipped = clipped if self._clipped is None else self._clipped.joined(clipped)
        for parameter, total in zip(self.params, self._clipped.tensors, strict=True):
            parameter.summed_grad = total

    @timed(Part.NOISE)
    def add_noise(self) -> None:
        """Add the mechanism's noise to the sum, once a step."""
        if self._clipped is None:
            raise PrivacyUnitError("no clipped sum to add noise to: it was released, or never made")
        released = self._released(self._clipped)
        self._clipped = None
        for parameter, noisy in zip(self.params, released, strict=True):
            parameter.grad = noisy.to(parameter.device, parameter.dtype)

    def _released(self, clipped: ClippedSum) -> Sequence[Tensor]:
        if self.adaptive is not None:
            found = self._mechanism.release(CountedSum(clipped=clipped), self.source)
            self.adaptive = self.adaptive.after(found.excess, expected=self.expected_batch_size)
            return [tensor / clipped.bound for tensor in found.tensors]
        if not self._banded:
            return self._mechanism.release(clipped, self.source)
        release, self.correlated = self.correlated, None
        if release is None:
            raise PrivacyUnitError("no correlated noise for this step: its index was used, or never set")
        return release(clipped)

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Forget the gradients, and unless the step was skipped, the sum."""
        super().zero_grad(set_to_none)
        if not self._is_last_step_skipped:
            self._clipped = None
