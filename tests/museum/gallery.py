"""All exhibits, in the order of docs/museum.md: whose gradient, what is drawn, noise, accounts, masks."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit
from tests.museum.exhibits import (
    adaptive_clipping,
    bare_values,
    clipped_by_layer,
    drawn_batch,
    float_noise,
    floored_batch,
    half_norms,
    ignored_bound,
    noise_twice,
    one_noise_key,
    percentile_filter,
    replace_one,
    replayed_noise,
    rows_of_tokens,
    scalar_mask,
    short_seeds,
    shuffled_batches,
    skipped_batch,
    sparse_vector,
    stale_adapter,
    uncharged_metric,
    weighted_draws,
)

EXHIBITS: tuple[Exhibit, ...] = tuple(
    room.EXHIBIT
    for room in (
        rows_of_tokens,
        stale_adapter,
        clipped_by_layer,
        ignored_bound,
        half_norms,
        weighted_draws,
        shuffled_batches,
        skipped_batch,
        floored_batch,
        drawn_batch,
        percentile_filter,
        bare_values,
        one_noise_key,
        replayed_noise,
        noise_twice,
        float_noise,
        sparse_vector,
        replace_one,
        adaptive_clipping,
        uncharged_metric,
        scalar_mask,
        short_seeds,
    )
)
