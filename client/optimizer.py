"""Opacus' DP optimizer with this project's noise, and with bounds that hold in mixed precision."""

from __future__ import annotations

import torch
from opacus.optimizers import DPOptimizer
from torch.optim import Optimizer

from privacy.errors import PrivacyUnitError
from privacy.noise import NoiseSource
from privacy.plan import Plan


class PrivateOptimizer(DPOptimizer):
    """Clips each example, sums, adds the plan's noise once, divides by the expected batch size.

    Guarantee: before noise, one example changes the sum by at most ``plan.clipping_norm`` in the
    mechanism's norm, up to float32 rounding, whatever its gradient: a non-finite one counts as zero.

    It differs from Opacus' optimizer in three places. Noise comes from a ``NoiseSource`` and not
    from torch's generator. Per-example gradients are made float32 before their norm is taken: a
    bfloat16 norm is off by up to 0.4 %, and clipping by it would break the bound. For Laplace noise
    the L1 norm is clipped.
    """

    source: NoiseSource  # set before each step

    def __init__(self, optimizer: Optimizer, *, plan: Plan, expected_batch_size: int) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.mechanism.multiplier,
            max_grad_norm=plan.clipping_norm,
            expected_batch_size=expected_batch_size,
        )
        self._mechanism = plan.mechanism
        self.zeroed_examples = 0

    def clip_and_accumulate(self) -> None:
        """Clip and add up the gradients of one physical batch."""
        gradients = []
        for parameter in self.params:
            if isinstance(parameter.grad_sample, list):
                raise PrivacyUnitError("two backward passes without a step between: not one batch")
            gradients.append(parameter.grad_sample.flatten(1).float())
        sizes = {len(gradient) for gradient in gradients}
        if len(sizes) != 1:
            raise PrivacyUnitError(f"per-example gradients for different batch sizes: {sizes}")
        finite = torch.stack([g.isfinite().all(1) for g in gradients]).all(0)
        self.zeroed_examples += int((~finite).sum())
        scale = finite.float()
        if self._mechanism.norm == 1:
            norms = sum(gradient.abs().sum(1) for gradient in gradients)
            scale = scale * (self.max_grad_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
        for parameter, gradient in zip(self.params, gradients, strict=True):
            # A product would keep NaN: 0 · NaN = NaN.
            kept = torch.where(finite[:, None], gradient, 0.0) * scale.nan_to_num()[:, None]
            parameter.grad_sample = kept.view(-1, *parameter.shape)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Add the mechanism's noise to the sum, once a step."""
        for parameter in self.params:
            noise = self._mechanism.noise(
                parameter.numel(), clipping_norm=self.max_grad_norm, source=self.source
            )
            on_device = torch.from_numpy(noise).to(parameter.device, parameter.dtype)
            parameter.grad = parameter.summed_grad + on_device.view_as(parameter)
