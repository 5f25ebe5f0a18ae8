"""Receipts: what was signed is what is read, or an error."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError, SignatureError
from privacy.ledger.receipt import PURPOSE, Receipt, SignedReceipt, sign_receipt
from privacy.mechanisms.mechanism import Mechanism
from tests.privacy.ledgers import IDENTITY, OTHER, PLANS, make_plan

RECEIPT = Receipt(
    site="site-1",
    run="run-1",
    manifest="a" * 64,
    round=1,
    plan=PLANS[0],
    steps=1,
    taken=1,
    epsilon=0.25,
    budget=3.0,
    head="b" * 64,
)


def signed(content: bytes) -> SignedReceipt:
    return SignedReceipt(content=content, signature=IDENTITY.sign(PURPOSE, content))


def changed(**changes: object) -> bytes:
    table = json.loads(RECEIPT.content) | changes
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@given(
    site=st.text(),
    round_number=st.integers(0, 10**9),
    epsilon=st.none() | st.floats(0, 1e3),
    plan=st.sampled_from(PLANS),
)
def test_a_receipt_comes_back_as_it_was(
    site: str, round_number: int, epsilon: float | None, plan: object
) -> None:
    receipt = replace(RECEIPT, site=site, round=round_number, epsilon=epsilon, plan=plan)
    try:
        receipt.content.decode()
    except UnicodeEncodeError:
        return  # half of a surrogate pair is no text
    assert sign_receipt(IDENTITY, receipt).read(IDENTITY.public) == receipt


def test_a_receipt_without_privacy_says_so() -> None:
    silent = replace(make_plan(), mechanism=Mechanism(name="none", multiplier=0.0))
    receipt = replace(RECEIPT, plan=silent, epsilon=None)
    assert sign_receipt(IDENTITY, receipt).read(IDENTITY.public) == receipt


def test_any_change_is_noticed() -> None:
    whole = sign_receipt(IDENTITY, RECEIPT)
    for place in range(len(whole.content)):
        wrong = bytearray(whole.content)
        wrong[place] ^= 1
        with pytest.raises(SignatureError):
            replace(whole, content=bytes(wrong)).read(IDENTITY.public)
    for place in range(len(whole.signature)):
        wrong = bytearray(whole.signature)
        wrong[place] ^= 1
        with pytest.raises(SignatureError):
            replace(whole, signature=bytes(wrong)).read(IDENTITY.public)


def test_another_key_or_purpose_is_noticed() -> None:
    with pytest.raises(SignatureError):
        sign_receipt(IDENTITY, RECEIPT).read(OTHER.public)
    with pytest.raises(SignatureError):
        sign_receipt(OTHER, RECEIPT).read(IDENTITY.public)
    with pytest.raises(SignatureError):
        SignedReceipt(
            content=RECEIPT.content, signature=IDENTITY.sign("ledger entry", RECEIPT.content)
        ).read(IDENTITY.public)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(json.loads(RECEIPT.content)).encode(),
        json.dumps(json.loads(RECEIPT.content), separators=(",", ":")).replace("0.25", "0.250").encode(),
        RECEIPT.content.replace(b'"site":', b'"site":"site-2","site":'),
        RECEIPT.content + b"\n",
        changed(plan=None),
        changed(plan={}),
        changed(more=1),
        changed(round="1"),
        changed(round=1.5),
        changed(round=True),
        changed(steps=None),
        changed(taken=[1]),
        changed(site=1),
        changed(epsilon="0"),
        changed(epsilon=math.nan),
        changed(epsilon=math.inf),
        changed(budget=math.nan),
        changed(budget=10**400),
        changed(plan=json.loads(RECEIPT.content)["plan"] | {"sampling_rate": 1.5}),
        changed(plan=json.loads(RECEIPT.content)["plan"] | {"steps": "10"}),
        changed(
            plan=json.loads(RECEIPT.content)["plan"] | {"mechanism": {"name": "tea", "multiplier": 1.0}}
        ),
    ],
)
def test_what_a_site_signed_that_is_no_receipt_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        signed(content).read(IDENTITY.public)
