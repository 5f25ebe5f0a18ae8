"""A run's secrets at a site: refused first, durable before anything leaves, and never both of two."""

from __future__ import annotations

import gc
import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.errors import AggregationError, LostError
from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.sealing import AgreementKey
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import write_cohort, write_roster
from tests.client.masked import (
    ASKED,
    COUNT,
    RING,
    RULES,
    SITE,
    contributed,
    dealt,
    listed,
    make_federation,
    make_session,
    plain_sum,
    uncovered,
    unmask_request,
    vector,
)
from tests.privacy.exchanges import identity_of, make_rules, names, peers_of

ALL = names(COUNT)
OTHERS = [site for site in ALL if site != SITE]


def refused(act: Callable[[], object], rule: str, words: str = "") -> None:
    with pytest.raises(AggregationError, match=words) as caught:
        act()
    assert caught.value.rule == rule


# What is refused.


def test_a_site_that_is_not_known_here_is_refused() -> None:
    federation = make_federation()
    strange = make_session(peers={site: key for site, key in peers_of(COUNT).items() if site != ALL[0]})
    federation.members[SITE] = strange.join()
    refused(lambda: strange.deal(write_roster(federation.roster())), "peers", f"{ALL[0]} is not known")


def test_a_site_that_is_known_here_by_another_identity_is_refused() -> None:
    federation = make_federation()
    swapped = peers_of(COUNT) | {ALL[0]: identity_of("somebody else").public}
    session = make_session(peers=swapped)
    federation.members[SITE] = session.join()
    refused(lambda: session.deal(write_roster(federation.roster())), "peers", "another identity")


@pytest.mark.parametrize(
    ("changed", "words"),
    [({}, f"{ALL[0]} is not known"), ({ALL[0]: identity_of("another").public}, "another identity")],
)
def test_what_the_custodian_changes_after_dealing_counts(changed: dict[str, bytes], words: str) -> None:
    """A peer that is known no longer, or by another key, gets no vector under its masks."""
    federation = make_federation()
    _, cohorts = dealt(federation)
    known = {site: key for site, key in peers_of(COUNT).items() if site != ALL[0]} | changed
    federation.sessions[SITE].know_peers(known)
    refused(lambda: federation.contribute(SITE, cohorts[SITE], 1), "peers", words)
    federation.sessions[SITE].know_peers(peers_of(COUNT))
    federation.contribute(SITE, cohorts[SITE], 1)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda message: message.members.pop(), None),
        (lambda message: message.members.extend([message.members[0]]), "cohort"),
        (lambda message: message.members.reverse(), "cohort"),
        (lambda message: [message.members.pop() for _ in range(2)], "cohort"),
        (lambda message: setattr(message, "number", 0), "replay"),
        (lambda message: setattr(message.members[0], "key", bytes(31)), "size"),
        (lambda message: setattr(message.members[0], "key", bytes(32)), "key"),
        (lambda message: setattr(message.members[0], "signature", bytes(64)), "key"),
        (lambda message: setattr(message.members[0], "identity", bytes(32)), "peers"),
        (lambda message: setattr(message.members[1], "key", message.members[0].key), "secrets"),
    ],
)
def test_a_roster_that_is_not_in_order_is_refused_and_changes_nothing(
    tmp_path: Path, spoil: Callable[[pb.Roster], object], rule: str | None
) -> None:
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    session, before = federation.sessions[SITE], path.read_bytes()
    message = write_roster(federation.roster())
    spoil(message)
    if rule is None:
        session.deal(message)
        return
    refused(lambda: session.deal(message), rule)
    assert path.read_bytes() == before


def test_a_cohort_that_is_not_in_order_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    roster, cohorts = dealt(federation)
    session, before = federation.sessions[SITE], path.read_bytes()

    def altered(change: Callable[[pb.Cohort], object]) -> pb.Cohort:
        message = write_cohort(cohorts[SITE], number=roster.number)
        change(message)
        return message

    def drop_own(message: pb.Cohort) -> None:
        kept = [one for one in message.dealt if one.site != SITE]
        del message.dealt[:]
        message.dealt.extend(kept)

    for change, rule in [
        (lambda message: setattr(message, "number", 0), "replay"),
        (lambda message: setattr(message, "number", 2), "secrets"),
        (lambda message: [message.dealt.pop() for _ in range(2)], "cohort"),
        (drop_own, "cohort"),
        (lambda message: setattr(message.dealt[1], "key", bytes(32)), "key"),
        (lambda message: setattr(message.dealt[1], "commitment", bytes(32)), "key"),
        (lambda message: setattr(message.dealt[0], "site", "a stranger"), "cohort"),
        (lambda message: message.dealt.extend(message.dealt[:1]), "cohort"),
        (lambda message: setattr(message.dealt[0], "sealed", bytes(7)), "size"),
    ]:
        message = altered(change)
        refused(lambda message=message: session.check(message, asked=ASKED, round_number=1), rule)
        refused(
            lambda message=message: session.contribute(
                message, vector(SITE), asked=ASKED, ring=RING, round_number=1
            ),
            rule,
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_following_sum_that_is_not_later_is_refused_before_anything_is_computed(number: int) -> None:
    """Otherwise a round would be trained, and charged, whose update cannot leave."""
    federation = make_federation()
    roster, cohorts = dealt(federation)
    message, following = write_cohort(cohorts[SITE], number=1), write_roster(roster)
    following.number = number
    session = federation.sessions[SITE]
    refused(lambda: session.check(message, asked=ASKED, round_number=1, following=following), "replay")
    refused(
        lambda: session.contribute(
            message, vector(SITE), asked=ASKED, ring=RING, round_number=1, following=following
        ),
        "replay",
    )
    # What was refused was not done by half.
    session.check(message, asked=ASKED, round_number=1)


def test_what_is_masked_once_is_not_masked_again(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "secrets.json")
    _, cohorts, _ = contributed(federation)
    for session in (federation.sessions[SITE], make_session(path=tmp_path / "secrets.json")):
        federation.sessions[SITE] = session
        refused(lambda: federation.contribute(SITE, cohorts[SITE], 1, salt=1), "replay")
        refused(lambda: federation.deal(federation.roster(1), [SITE]), "replay")


def test_who_survived_is_said_once_and_revealed_once(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    roster, cohorts, _ = contributed(federation)
    fewer = [site for site in ALL if site != OTHERS[0]]
    session = federation.sessions[SITE]
    for wrong in (OTHERS, ALL[:2], [*ALL, "stranger"], ALL[::-1]):
        with pytest.raises(AggregationError):
            session.confirm(listed(wrong))
    assert session.confirm(listed(ALL)) == session.confirm(listed(ALL))
    refused(lambda: make_session(path=path).confirm(listed(fewer)), "survivors", "two lists")
    refused(lambda: session.reveal(unmask_request(roster, cohorts[SITE], fewer)), "survivors")
    federation.reveal(SITE, roster, cohorts[SITE], ALL)
    for again in (session, make_session(path=path)):
        with pytest.raises(LostError):
            again.reveal(unmask_request(roster, cohorts[SITE], ALL))
        with pytest.raises(LostError):
            again.confirm(listed(fewer))


@pytest.mark.parametrize("whose", ["one's own alone", "another list", "another site's", "not enough"])
def test_shares_are_revealed_for_what_survivors_signed_alone(whose: str) -> None:
    federation = make_federation()
    roster, cohorts, _ = contributed(federation)
    session = federation.sessions[SITE]
    session.confirm(listed(ALL))
    message = unmask_request(roster, cohorts[SITE], ALL)
    if whose == "one's own alone":
        del message.signatures[1:]
    elif whose == "another list":
        other = unmask_request(roster, cohorts[SITE], OTHERS)
        del message.signatures[:]
        message.signatures.extend(other.signatures)
    elif whose == "another site's":
        message.signatures[0].signature = message.signatures[1].signature
    else:
        del message.signatures[RULES.threshold - 1 :]
    refused(lambda: session.reveal(message), "survivors")
    session.reveal(unmask_request(roster, cohorts[SITE], ALL))


# What is in the file.


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "run.json"
    federation = make_federation(path)
    for _ in (None, dealt(federation), contributed(federation, 2)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_secrets_in_memory_are_in_no_file_and_end_with_the_process(tmp_path: Path) -> None:
    federation = make_federation(None)
    dealt(federation)
    assert list(tmp_path.iterdir()) == []
    again = make_session()
    with pytest.raises(LostError, match="joins again"):
        again.deal(write_roster(federation.roster(2)))
    assert again.join() != federation.members[SITE]


def test_what_is_forgotten_is_in_no_key_either_and_the_next_session_has_its_own(tmp_path: Path) -> None:
    """What a site agreed on with its neighbours would open the shares that they sealed."""

    def keys() -> list[AgreementKey]:
        known = [each for each in gc.get_objects() if isinstance(each, AgreementKey)]
        return [key for key in known if key.public == public]

    for path in (None, tmp_path / "secrets.json"):
        federation = make_federation(path)
        public = federation.members[SITE].key
        _, cohorts = dealt(federation)
        session = federation.sessions[SITE]
        session.check(write_cohort(cohorts[SITE], number=1), asked=ASKED, round_number=1)
        assert keys() != []
        session.forget()
        assert keys() == []
        federation.members[SITE] = session.join()
        assert federation.members[SITE].key != public
        _, cohorts, masked = contributed(federation, 2)
        assert masked.keys() == set(ALL)  # each has opened what the others sealed


def test_a_session_that_another_process_began_anew_has_that_ones_key(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "secrets.json")
    contributed(federation)
    other = make_session(path=tmp_path / "secrets.json")
    other.forget()
    federation.members[SITE] = other.join()
    _, _, masked = contributed(federation, 2)  # by the first process
    assert masked.keys() == set(ALL)


def test_another_process_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    assert make_session(path=path).join() == federation.members[SITE]
    roster, cohorts = dealt(federation)
    masked = {}
    for site in ALL:
        federation.sessions[SITE] = make_session(path=path)
        masked[site], _ = federation.contribute(site, cohorts[site], 1)
    shares = {}
    for site in ALL:
        federation.sessions[SITE] = make_session(path=path)
        shares[site] = federation.reveal(site, roster, cohorts[site], ALL)
    assert (uncovered(roster, cohorts[SITE], masked, ALL, shares) == plain_sum(ALL)).all()
    assert federation.left.broken == []


def test_the_secrets_of_another_site_or_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    make_session(path=path).join()
    other_run = make_rules(COUNT)
    object.__setattr__(other_run, "manifest", hashlib.sha256(b"another").digest())
    for session in (make_session(OTHERS[0], path=path), make_session(rules=other_run, path=path)):
        refused(session.join, "secrets", "of another site or run")
        refused(lambda session=session: session.confirm(listed(ALL)), "secrets", "of another site or run")


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda c: c[:-1], lambda c: c + b"}", lambda _: b"[]"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    path.write_bytes(spoil(path.read_bytes()))
    session = make_session(path=path)
    refused(session.join, "secrets", "remove the file, and the site joins again")
    refused(lambda: session.deal(write_roster(federation.roster())), "secrets", "remove the file")
    path.unlink()
    assert session.join() != federation.members[SITE]


def test_a_second_process_on_the_same_file_goes_on_where_the_first_one_is(tmp_path: Path) -> None:
    """An engine may ask any of its processes; each has read the file before."""
    path = tmp_path / "secrets.json"
    federation = make_federation(path)
    processes = [federation.sessions[SITE], make_session(path=path)]
    assert processes[0].join() == processes[1].join()
    roster = federation.roster(1)
    federation.sessions[SITE] = processes[0]
    cohorts = forward(roster, federation.deal(roster), asked=ASKED)
    for one in processes:
        one.check(write_cohort(cohorts[SITE], number=1), asked=ASKED, round_number=1)
    federation.contribute(SITE, cohorts[SITE], 1)
    federation.sessions[SITE] = processes[1]
    refused(lambda: federation.contribute(SITE, cohorts[SITE], 1, salt=1), "replay")
    federation.reveal(SITE, roster, cohorts[SITE], ALL[1:])
    federation.sessions[SITE] = processes[0]
    with pytest.raises(LostError):
        federation.reveal(SITE, roster, cohorts[SITE], ALL[:3])
    assert federation.left.broken == []
