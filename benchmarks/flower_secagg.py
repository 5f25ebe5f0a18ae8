"""What Flower's SecAgg+ does in a round, by its own functions, for benchmarks/secagg.py to time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
)

CLIPPING, TARGET, MODULUS = 8.0, 1 << 22, 1 << 32
# How many of an unmasking's masks and secrets are timed.
SELF_MASKS, PAIR_MASKS, SEEDS, KEYS = 10, 30, 4, 2


def flowers_site(update: np.ndarray, *, sites: int, threshold: int) -> Callable[[], None]:
    """One site's round by Flower's client mod, without its messages and without keeping its state."""
    rules = {
        Key.SAMPLE_NUMBER: sites,
        Key.SHARE_NUMBER: sites,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: CLIPPING,
        Key.TARGET_RANGE: TARGET,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: 1000.0,
    }

    def started(number: int) -> tuple[SecAggPlusState, list[bytes]]:
        state = SecAggPlusState()
        state.nid = number
        keys = _setup(state, rules)
        return state, [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]

    begun = [started(number) for number in range(sites)]
    published = {str(number): keys for number, (_, keys) in enumerate(begun)}
    own = begun[0][0]
    _share_keys(own, published)
    # Shares of the length of real ones: whoever opens them does not look at what they say.
    sizes = len(own.rd_seed_share_dict[0]), len(own.sk1_share_dict[0])

    def sealed(sender: SecAggPlusState) -> bytes:
        key = generate_shared_key(bytes_to_private_key(sender.sk2), bytes_to_public_key(own.pk2))
        return encrypt(key, share_keys_plaintext_concat(sender.nid, 0, *map(os.urandom, sizes)))

    received = {
        Key.CIPHERTEXT_LIST: [sealed(state) for state, _ in begun[1:]],
        Key.SOURCE_LIST: list(range(1, sites)),
    }
    alive = {Key.ACTIVE_NODE_ID_LIST: list(range(sites)), Key.DEAD_NODE_ID_LIST: []}
    parameters = ndarrays_to_parameters([update])

    def work() -> None:
        fresh, keys = started(0)
        _share_keys(fresh, {**published, "0": keys})
        # The others sealed for the keys of before, so what they sent is opened with those.
        _collect_masked_vectors(own, received, 1000, parameters)
        _unmask(own, alive)

    return work


def flowers_unmasking(dimension: int, *, sites: int, threshold: int, dropped: int) -> dict[str, float]:
    """Processor seconds of each of its workflow's steps: of a part of it, times how often it does that."""
    alive = sites - dropped
    keys = [generate_key_pairs() for _ in range(KEYS)]
    private, other = [private_key_to_bytes(key) for key, _ in keys], keys[-1][1]
    seed = os.urandom(32)
    # Whoever is left sends a share, and it puts all of them together, not just as many as it needs.
    seed_shares = create_shares(seed, threshold, sites)[:alive]
    key_shares = [create_shares(key, threshold, sites)[:alive] for key in private]
    masked = [np.array([1]), np.random.default_rng(3).integers(0, MODULUS, dimension)]
    shapes = get_parameters_shape(masked)

    def self_masks() -> None:
        vector = masked
        for _ in range(SELF_MASKS):
            vector = parameters_subtraction(vector, pseudo_rand_gen(seed, MODULUS, shapes))

    def pair_masks() -> None:
        vector = masked
        for number in range(PAIR_MASKS):
            shared = generate_shared_key(bytes_to_private_key(private[0]), other)
            mask = pseudo_rand_gen(shared, MODULUS, shapes)
            vector = (parameters_addition if number % 2 else parameters_subtraction)(vector, mask)

    def mean() -> None:
        ratio, vector = factor_extract(parameters_mod(masked, MODULUS))
        (found,) = dequantize(vector, CLIPPING, TARGET)
        found += -(alive - 1) * CLIPPING
        found *= TARGET / ratio

    return {
        "seeds": seconds(lambda: [combine_shares(seed_shares) for _ in range(SEEDS)]) * alive / SEEDS,
        "keys": seconds(lambda: [combine_shares(shares) for shares in key_shares]) * dropped / KEYS,
        "self_masks": seconds(self_masks) * alive / SELF_MASKS,
        # It takes the mask between two that dropped out off twice, once each way.
        "pair_masks": seconds(pair_masks) * dropped * (sites - 1) / PAIR_MASKS,
        "mean": seconds(mean),
    }


def seconds(work: Callable[[], object]) -> float:
    """The processor's, of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began
