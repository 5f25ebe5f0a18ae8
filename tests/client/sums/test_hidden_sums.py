"""The steps that masks and ciphertexts share, as a site answers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.sums.hidden_sums import HiddenSums
from client.sums.masked_session import MaskedSession
from client.sums.site_sums import no_such_step
from privacy.errors import AggregationError, ProtocolError
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import write_roster
from tests import tiny
from tests.client.masked import COUNT, SITE, listed, make_federation
from tests.privacy.exchanges import peers_of


class Sums(HiddenSums[MaskedSession]):
    """Sums that have no last step."""

    def _uncover(self, request: pb.Request) -> pb.Reply:
        raise no_such_step(request, self._manifest.job.aggregation.kind)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    job = tiny.job(tmp_path, aggregation={"kind": "masks"})
    return Manifest(run="r", job=job, cohort=COUNT, labels=(), model_digest="", layout_digest="")


def test_a_session_answers_the_steps(manifest: Manifest) -> None:
    federation = make_federation()
    sums = Sums(manifest, session=federation.sessions[SITE])
    joined = pb.Joined()
    sums.join(joined)
    member = federation.members[SITE]
    assert (joined.session_key, joined.session_signature) == (member.key, member.signature)
    dealt = sums.answer(pb.Request(deal=pb.Deal(roster=write_roster(federation.roster())))).dealing
    assert len(dealt.sealed) == COUNT - 1
    with pytest.raises(
        AggregationError, match="secrets"
    ):  # nothing was contributed that could be confirmed
        sums.answer(pb.Request(confirm=listed(list(federation.members))))
    with pytest.raises(ProtocolError, match=r"asked to unmask in a run of aggregation\.kind='masks'"):
        sums.answer(pb.Request(unmask=pb.Unmask(number=1)))


def test_what_the_custodian_changes_is_known_from_then_on(manifest: Manifest) -> None:
    federation = make_federation()
    sums = Sums(manifest, session=federation.sessions[SITE])
    request = pb.Request(deal=pb.Deal(roster=write_roster(federation.roster())))
    sums.know_peers(lambda: {SITE: peers_of(COUNT)[SITE]})
    with pytest.raises(AggregationError, match="is not known here"):
        sums.answer(request)
    sums.know_peers(lambda: peers_of(COUNT))
    assert sums.answer(request).HasField("dealing")
