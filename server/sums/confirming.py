"""Whose sum it is: survivors sign the same list, before anyone helps to open it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from privacy.errors import RunError, SignatureError
from privacy.identity import verify
from protocol.messages.confide_pb2 import Confirm, Request
from server.sums.sums import Asking

log = logging.getLogger("confide.sums")


def ask_to_confirm(
    ask: Asking,
    confirm: Confirm,
    *,
    identities: Mapping[str, bytes],
    purpose: str,
    content: bytes,
    quorum: int,
    number: int,
) -> dict[str, bytes]:
    """The signatures under a sum's list of those who sign, ``quorum`` of them at least, by site.

    ``content`` is what each must have signed, for a ``purpose``, under its one of ``identities``.
    Raises RunError, or what the first site refused with, for too few.
    """
    answers = ask(dict.fromkeys(identities, Request(confirm=confirm)), number, enough=quorum)
    signatures = {}
    for site, reply in answers.of("confirmed").items():
        try:
            verify(identities[site], purpose, content, reply.confirmed.signature)
        except SignatureError as error:
            log.warning("%s confirmed something else: %s", site, error)
        else:
            signatures[site] = reply.confirmed.signature
    if len(signatures) < quorum:
        answers.require(quorum, "confirmed", what="confirming the sum")
        raise RunError(f"round {number}: expected {quorum} sites to confirm the sum, got {len(signatures)}")
    return signatures
