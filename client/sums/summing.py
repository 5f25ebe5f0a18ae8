"""A site's secrets of a run's sums, and its answers in the steps that are not training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.session import Session
from client.sums.homomorphic_session import HomomorphicSession
from client.sums.masked_session import MaskedSession
from privacy.errors import ProtocolError
from privacy.identity import Identity
from privacy.secagg.ckks.ciphertexts import load_tenseal
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import make_rules
from protocol.sums.update_encoding import update_reach


def open_sum_session(
    manifest: Manifest,
    *,
    site: str,
    identity: Identity,
    peers: Mapping[str, bytes],
    path: Path | None,
) -> MaskedSession | HomomorphicSession:
    """A site's secrets of a run whose updates nobody reads; ``path`` is where they are kept.

    Raises ProtocolError if the site is known by another identity among its peers, and UserError where
    homomorphic sums are asked for and TenSEAL is not here.
    """
    if site not in peers:
        raise ProtocolError(
            "this site is not among those in its own peers.toml: its custodian puts the federation's new "
            "one in its home"
        )
    if peers[site] != identity.public:
        raise ProtocolError(
            "peers.toml has another key for this site than its own identity.key: its custodian puts the "
            "federation's new peers.toml in its home"
        )
    kind: type[MaskedSession] | type[HomomorphicSession] = MaskedSession
    if manifest.job.secure_aggregation == "homomorphic":
        load_tenseal()
        kind = HomomorphicSession
    return kind(site=site, rules=make_rules(manifest), identity=identity, peers=peers, path=path)


def answer_about_sum(session: Session, request: pb.Request, *, site: str) -> pb.Reply:
    """Answer a request that is a step of a sum (``MessageKind.of_sum``).

    Raises AggregationError, and ProtocolError for a step that the run's sums do not have.
    """
    kind, sums = request.WhichOneof("kind"), session.sender.sums
    if sums is not None and kind == "deal":
        return pb.Reply(site=site, dealing=sums.deal(request.deal.roster))
    if sums is not None and kind == "confirm":
        return pb.Reply(site=site, confirmed=pb.Confirmed(signature=sums.confirm(request.confirm)))
    if isinstance(sums, MaskedSession) and kind == "unmask":
        return pb.Reply(site=site, unmasked=_unmask(session, sums, request.unmask))
    if isinstance(sums, HomomorphicSession) and kind == "open":
        reach, size = update_reach(session.manifest.job), session.sender.update_size
        return pb.Reply(site=site, opened=sums.open(request.open, update_size=size, reach=reach))
    raise ProtocolError(
        f"asked to {kind} in a run of secure_aggregation={session.manifest.job.secure_aggregation!r}: its "
        "sums have no such step"
    )


def _unmask(session: Session, masked: MaskedSession, request: pb.Unmask) -> pb.Unmasked:
    shares, number = masked.reveal(request)
    job = session.manifest.job
    # Noise that is drawn again bounds nothing, whatever is summed.
    keyed = job.seeds.noise is not None
    if session.plan.unit == "site" and session.plan.mechanism.name != "none" and not keyed:
        session.ledger.record_summed(
            run=session.manifest.run, round_number=number, survivors=len(request.survivors)
        )
    if number == job.training.rounds + (job.metrics.epsilon > 0):
        masked.forget()  # no sum of this run is to come
    return shares
