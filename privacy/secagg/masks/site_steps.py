"""A site's part in sums that nobody else can take apart: pure steps from state to state.

Each sum has four steps. *Deal*: the site makes two secrets, the seed of its self mask and a key that all
pair masks follow from, and shares both among its neighbours. *Contribute*: it adds its self mask and one
mask a neighbour, which that one subtracts, to its vector. *Confirm*: it signs who has answered. *Reveal*:
for each neighbour that has, it gives its share of the seed; for each that has not, its share of the key;
for nobody both. A step that was done is not done again, and what it needed is forgotten: a caller makes
the state that comes back durable before what comes with it leaves.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", figure
4, with fresh secrets for each sum; Bell et al. 2020 (eprint 2020/704) for graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from privacy.errors import AggregationError, LostError
from privacy.identity import Identity
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Dealt, Member, Roster, check_sites, survivors_digest
from privacy.secagg.sealing import AgreementKey, derive, open_sealed, seal
from privacy.secagg.shamir import SHARE_BYTES, Random, draw_secret, is_share, split

SURVIVORS_PURPOSE = "survivors"


@dataclass(frozen=True, kw_only=True)
class Held:
    """Shares of one site's two secrets, of which at most one is ever given away."""

    seed: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Dealer:
    """A sum that was dealt for, and not contributed to: the site's own two secrets, and its shares."""

    roster: Roster
    seed: bytes
    key: bytes
    own: Held


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A sum that was contributed to: what the site holds of others, and of itself, until it reveals.

    ``cohort`` is the cohort's digest and ``sites`` whom it is of; ``survivors`` are those signed for here.
    ``round`` is what the site contributed for.
    """

    roster: Roster
    round: int
    cohort: bytes
    sites: tuple[str, ...]
    held: Mapping[str, Held]
    survivors: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """What a site keeps secret of a run. ``last`` is the number of the last sum it contributed to.

    It holds one sum that is dealt for and one that was contributed to, and forgets older ones.
    """

    site: str
    manifest: bytes
    key: bytes
    last: int = 0
    dealer: Dealer | None = None
    holder: Holder | None = None


def begin(site: str, manifest: bytes, *, identity: Identity, random: Random) -> tuple[SiteState, Member]:
    """A session of a run: its state, and what others are told of it."""
    state = SiteState(site=site, manifest=manifest, key=random(32))
    return state, advertise(state, identity=identity)


def advertise(state: SiteState, *, identity: Identity) -> Member:
    """What others are told of a session: its public key, signed."""
    public = AgreementKey(state.key).public
    return Member.sign(state.site, public, identity=identity, manifest=state.manifest)


def deal(
    state: SiteState,
    roster: Roster,
    *,
    peers: Mapping[str, bytes],
    random: Random,
    session: AgreementKey | None = None,
) -> tuple[SiteState, Dealing]:
    """Make and share this sum's secrets.

    ``peers`` are the identities that are pinned here. ``session`` is the state's key, where it is kept with
    what it agreed on before. Raises AggregationError for a roster of another run,
    of a sum that is over, without this site, or with a site that is not known or did not sign.
    """
    place, graph, session = roster.place(state.site), roster.graph, session or AgreementKey(state.key)
    # Whose session key is used here. Of the others a name is taken, and no key: see docs/threat-model.md.
    neighbours = [roster.members[other] for other in graph.neighbours[place]]
    check_roster(state, roster, peers, signed=neighbours)
    seed, key = draw_secret(random), draw_secret(random)
    holders = graph.holders(place)
    points = [holder + 1 for holder in holders]
    seeds = split(seed, threshold=graph.threshold, points=points, random=random)
    keys = split(key, threshold=graph.threshold, points=points, random=random)
    public = AgreementKey(key).public
    mine = holders.index(place)
    own = Held(seed=seeds.pop(mine), key=keys.pop(mine))
    sealed = []
    for holder, *shares in zip(graph.neighbours[place], seeds, keys, strict=True):
        member = roster.members[holder]
        sealing = _sealing_between(session, member, roster, state.site, member.site, public)
        sealed.append(seal(sealing, b"".join(shares)))
    dealer = Dealer(roster=roster, seed=seed, key=key, own=own)
    dealing = Dealing(
        site=state.site, key=public, commitment=commitment_to(seed, roster), sealed=tuple(sealed)
    )
    return replace(state, dealer=dealer), dealing


def check_cohort(state: SiteState, cohort: Cohort, *, number: int) -> Dealer:
    """What was dealt for a sum, if a contribution to it would be in order.

    Raises AggregationError for a cohort that is too small, replays a sum, or says of this site what it
    did not deal, and LostError if nothing is dealt here.
    """
    if number <= state.last:
        raise AggregationError(
            f"expected a sum after number {state.last}, got number={number}", rule="replay"
        )
    dealer = state.dealer
    if dealer is None or dealer.roster.number != number:
        raise LostError(f"nothing is dealt here for sum {number}: deal again")
    roster = dealer.roster
    for site in cohort.sites:
        roster.place(site)
    if len(cohort.dealt) < roster.rules.min_survivors:
        raise AggregationError(
            f"expected at least {roster.rules.min_survivors} sites, got {len(cohort.dealt)}", rule="cohort"
        )
    neighbours = set(roster.neighbours(state.site))
    if len(neighbours.intersection(cohort.sites)) + 1 < roster.graph.threshold:
        # Whom a site masks with is all that hides it: others in the cohort are only said to be there.
        raise AggregationError(
            f"expected at least {roster.graph.threshold - 1} sites that this one masks with", rule="cohort"
        )
    own = cohort.of(state.site)
    mine = AgreementKey(dealer.key).public, commitment_to(dealer.seed, roster)
    if (own.key, own.commitment) != mine:
        raise AggregationError("the cohort has another dealing of this site than it made", rule="key")
    return dealer


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A step that is ready: the keys of one vector's masks, and the ``state`` after it."""

    state: SiteState
    add: tuple[bytes, ...]
    subtract: tuple[bytes, ...]

    def mask(self, words: Words, *, ring: Ring) -> Words:
        """The words under this site's masks."""
        return apply_masks(words, ring=ring, add=self.add, subtract=self.subtract)


def prepare(
    state: SiteState,
    cohort: Cohort,
    *,
    number: int,
    round_number: int = 0,
    session: AgreementKey | None = None,
) -> Contribution:
    """Get a contribution ready, before there is a vector. ``session`` is as for ``deal``.

    In the state after it, the secrets that the masks came from are forgotten, and the shares that others
    need are kept. Raises what ``check_cohort`` raises, and AggregationError for a broken seal.
    """
    dealer = check_cohort(state, cohort, number=number)
    session = session or AgreementKey(state.key)
    roster, pair = dealer.roster, session.beside(dealer.key)
    neighbours = set(roster.neighbours(state.site))
    held, own, digest = {state.site: dealer.own}, cohort.of(state.site), cohort.digest(roster)
    add = [self_mask_key(dealer.seed, digest, state.site)]
    subtract: list[bytes] = []
    for dealt in cohort.dealt:
        if dealt.site not in neighbours:
            continue
        held[dealt.site] = _open(session, roster, dealt, state.site)
        mask = pair_mask_key(pair, digest, own=own, other=dealt)
        (add if state.site < dealt.site else subtract).append(mask)
    holder = Holder(
        roster=roster,
        round=round_number,
        cohort=digest,
        sites=tuple(cohort.sites),
        held=held,
    )
    after = replace(state, last=number, dealer=None, holder=holder)
    return Contribution(state=after, add=tuple(add), subtract=tuple(subtract))


def confirm(
    state: SiteState, survivors: Sequence[str], *, number: int, identity: Identity
) -> tuple[SiteState, bytes]:
    """Sign who has answered, this site among them: 64 bytes. The same survivors may be signed again.

    Raises AggregationError for others than were signed before, or too few, at a site that is none of those
    who sign, and LostError.
    """
    holder = _check_survivors(state, survivors, number=number)
    if state.site not in holder.roster.signers:
        raise AggregationError("this site is none of those who sign for this sum", rule="survivors")
    if holder.survivors not in (None, tuple(survivors)):
        raise AggregationError(
            "other survivors were confirmed in this sum before: two lists would uncover single updates",
            rule="survivors",
        )
    signature = identity.sign(SURVIVORS_PURPOSE, survivors_digest(holder.cohort, survivors))
    return replace(state, holder=replace(holder, survivors=tuple(survivors))), signature


def reveal(
    state: SiteState, survivors: Sequence[str], *, number: int, signatures: Mapping[str, bytes]
) -> tuple[SiteState, dict[str, bytes]]:
    """For each neighbour in the cohort, by site, one share: of its seed if it survives, else of its key.

    Where the run asks for confirmation, a quorum of the survivors must have signed this very list, and this
    site no other: no second list has a quorum, whether this site signed the first or was not waited for.
    What was held is forgotten. Raises AggregationError and LostError.
    """
    holder = _check_survivors(state, survivors, number=number)
    if holder.roster.rules.confirm:
        roster = holder.roster
        if holder.survivors not in (None, tuple(survivors)):
            raise AggregationError("other survivors were confirmed here", rule="survivors")
        roster.check_signatures(
            signatures,
            among=roster.signers.intersection(survivors),
            quorum=roster.committee.quorum,
            purpose=SURVIVORS_PURPOSE,
            content=survivors_digest(holder.cohort, survivors),
        )
    alive = set(survivors)
    shares = {site: held.seed if site in alive else held.key for site, held in holder.held.items()}
    return replace(state, holder=None), shares


def commitment_to(seed: bytes, roster: Roster) -> bytes:
    """What a self mask's seed is known again by, and not found from: 32 bytes."""
    return derive(seed, b"commitment", roster.digest)


def self_mask_key(seed: bytes, cohort: bytes, site: str) -> bytes:
    """The key of a site's self mask, under the digest of its cohort: 32 bytes."""
    return derive(seed, b"self mask", cohort, site.encode())


def pair_mask_key(pair: AgreementKey, cohort: bytes, *, own: Dealt, other: Dealt) -> bytes:
    """The key of the mask that the first site by name adds and the second subtracts: 32 bytes.

    Two sites have it in common if their cohorts have one digest.
    """
    first, second = (own, other) if own.site < other.site else (other, own)
    names = first.site.encode(), second.site.encode()
    about = (b"pair mask", cohort, *names, first.key, second.key)
    return pair.once(other.key, lambda: derive(_agree(pair, other.key, other.site), *about), *about)


def _agree(key: AgreementKey, public: bytes, site: str) -> bytes:
    try:
        return key.agree(public)
    except AggregationError as error:
        raise AggregationError(f"invalid public key from {site}: {error}", rule="key") from error


def _sealing_key(secret: bytes, roster: Roster, sender: str, receiver: str, key: bytes) -> bytes:
    # The dealer's key is fresh for each dealing: no sealing key is used twice.
    return derive(secret, b"shares", roster.digest, sender.encode(), receiver.encode(), key)


def _sealing_between(
    session: AgreementKey, other: Member, roster: Roster, sender: str, receiver: str, key: bytes
) -> bytes:
    """The key of one of the two for what the other seals, or the other way round: 32 bytes."""
    return session.once(
        other.key,
        lambda: _sealing_key(_agree(session, other.key, other.site), roster, sender, receiver, key),
        *(b"shares", roster.digest, sender.encode(), receiver.encode(), key),
    )


def _open(session: AgreementKey, roster: Roster, dealt: Dealt, receiver: str) -> Held:
    member = roster.member(dealt.site)
    key = _sealing_between(session, member, roster, dealt.site, receiver, dealt.key)
    content = open_sealed(key, dealt.sealed, sender=dealt.site)
    if len(content) != 2 * SHARE_BYTES:
        raise AggregationError(
            f"expected two shares from {dealt.site}, got {len(content)} bytes", rule="share"
        )
    held = Held(seed=content[:SHARE_BYTES], key=content[SHARE_BYTES:])
    if not (is_share(held.seed) and is_share(held.key)):
        raise AggregationError(f"malformed share from {dealt.site}", rule="share")
    return held


def check_roster(
    state: SiteState, roster: Roster, peers: Mapping[str, bytes], *, signed: Iterable[Member]
) -> None:
    """Raises what ``deal`` raises for a roster; the members in ``signed`` must have signed their keys."""
    if roster.rules.manifest != state.manifest:
        raise AggregationError("the list of sites is of another run", rule="replay")
    if roster.number <= state.last:
        raise AggregationError(
            f"expected a sum after number {state.last}, got number={roster.number}", rule="replay"
        )
    own = roster.member(state.site)
    if own.key != AgreementKey(state.key).public:
        raise LostError("the list of sites has another session key of this site: join again")
    for member in roster.members:
        member.check_pinned(peers.get(member.site))
    for member in signed:
        member.check(state.manifest, pinned=peers.get(member.site))


def _check_survivors(state: SiteState, survivors: Sequence[str], *, number: int) -> Holder:
    holder = state.holder
    if holder is None or holder.roster.number != number:
        raise LostError(f"no shares are held here for sum {number}")
    check_sites(survivors)
    rules = holder.roster.rules
    if len(survivors) < rules.min_survivors:
        raise AggregationError(
            f"expected a sum of at least {rules.min_survivors} sites, got {len(survivors)}",
            rule="survivors",
        )
    if not set(survivors) <= set(holder.sites):
        raise AggregationError("expected survivors that are in the cohort", rule="survivors")
    if state.site not in survivors:
        raise AggregationError("this site has answered and is not among the survivors", rule="survivors")
    return holder
