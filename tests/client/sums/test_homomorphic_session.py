"""A site's part in homomorphic sums: what it opens, what it refuses, what it knows when it comes back."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import AggregationError, LostError, ProtocolError
from privacy.identity import Identity
from privacy.secagg.ckks.homomorphic_sum import LIST_PURPOSE
from privacy.secagg.ckks.shared_key import told_of_key
from privacy.secagg.roster import Dealing, Member, Roster
from protocol.messages import confide_pb2 as pb
from protocol.messages.message_kinds import longest_answer
from protocol.sums.mask_messages import write_dealing, write_roster
from tests.client.encrypting import (
    ERROR,
    MANIFEST,
    REACH,
    SITES,
    SIZE,
    UPDATES,
    Encrypting,
    confirm_request,
    identity,
    make_session,
    open_request,
    plain_sum,
    train_request,
)

pytest.importorskip("tenseal")

ME = "north"


class Scene:
    """A sum in which all have answered, and nobody has confirmed; the round before it is over."""

    def __init__(self, folder: Path) -> None:
        self.sites = sites = Encrypting(folder)
        first = sites.roster(1)
        self.before = sites.train(first, sites.dealing(first))
        self.roster = sites.roster(2)
        self.dealing = sites.dealing(self.roster)
        self.trained = sites.train(self.roster, self.dealing)

    def pick(self, *sites: str) -> dict[str, pb.Trained]:
        return {site: self.trained[site] for site in sites}

    def confirm(self, trained: dict[str, pb.Trained] | None = None) -> dict[str, bytes]:
        return self.sites.confirm(self.trained if trained is None else trained, number=2)

    def confirm_here(self, request: pb.Confirm) -> bytes:
        return self.sites.sessions[ME].confirm(request)

    def open(
        self,
        signatures: dict[str, bytes],
        trained: dict[str, pb.Trained] | None = None,
        *,
        number: int = 2,
        site: str = ME,
    ) -> np.ndarray:
        request = open_request(self.trained if trained is None else trained, signatures, number=number)
        return self.sites.open(site, request)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def scene(whole: Scene, tmp_path: Path) -> Scene:
    """A scene of its own, from the first one's disk."""
    shutil.copytree(whole.sites.folder, tmp_path / "sites")
    other = copy.copy(whole)
    other.sites = Encrypting(tmp_path / "sites")
    return other


def swapped(trained: dict[str, pb.Trained], site: str, **changes: bytes) -> dict[str, pb.Trained]:
    """One site's answer with other bytes in it."""
    answer = pb.Trained()
    answer.CopyFrom(trained[site])
    for name, value in changes.items():
        setattr(answer, name, value)
    return trained | {site: answer}


# What is not opened. Each is an attack by the coordinator that would uncover a single update.

OPENINGS: dict[str, tuple[Callable[[Scene], object], str]] = {
    "before anyone confirmed": (lambda s: s.open({}), "survivors: these ciphertexts are not the list"),
    "one ciphertext": (
        lambda s: s.open(s.confirm(), s.pick(ME)),
        "survivors: these ciphertexts are not the list",
    ),
    "a subset that is large enough": (
        lambda s: s.open(s.confirm(), s.pick("east", ME, "south")),
        "survivors: these ciphertexts are not the list",
    ),
    "all, where fewer were confirmed": (
        lambda s: s.open(s.confirm(s.pick("east", ME, "south"))),
        "survivors: these ciphertexts are not the list",
    ),
    "one site twice": (
        lambda s: s.sites.open(
            ME, pb.Open(number=2, updates=[pb.Encrypted(site=ME, update=b"", signature=bytes(64))] * 3)
        ),
        "cohort: expected distinct sites",
    ),
    "too few signatures": (
        lambda s: s.open(dict(list(s.confirm().items())[:2])),
        "survivors: expected 3 survivors' signatures, got 2",
    ),
    "one signature three times": (
        lambda s: s.sites.open(
            ME, pb.Open(number=2, signatures=[pb.Signed(site=ME, signature=s.confirm()[ME])] * 3)
        ),
        "survivors: expected one signature a site",
    ),
    "a stranger's signature": (
        lambda s: s.open(s.confirm() | {"x": Identity.generate().sign(LIST_PURPOSE, bytes(32))}),
        "survivors: expected signatures of survivors alone",
    ),
    "signatures under another list": (
        lambda s: s.open(
            {
                site: identity(site).sign(LIST_PURPOSE, bytes(32)) if site != ME else signature
                for site, signature in s.confirm().items()
            }
        ),
        "did not sign this list",
    ),
    "the sum before": (
        lambda s: s.open(s.confirm(), s.before, number=1),
        "secrets: nothing is left to confirm or to open here of sum 1",
    ),
    "a sum to come": (lambda s: s.open(s.confirm(), number=3), "secrets: nothing is left"),
    "after it was opened": (
        lambda s: (signatures := s.confirm()) and (s.open(signatures), s.open(signatures)),
        "secrets: nothing is left",
    ),
    "by a site whose signatures are cut short": (
        lambda s: s.open({site: one[:-1] for site, one in s.confirm().items()}),
        "size: expected the signature of east in 64 bytes, got 63",
    ),
    "ciphertexts of more bytes than an update's": (
        lambda s: s.open({}, swapped(s.trained, "east", update=bytes(100_000))),
        "size: expected ciphertexts of",
    ),
}


@pytest.mark.parametrize("attack", OPENINGS)
def test_what_is_not_opened(scene: Scene, attack: str) -> None:
    act, said = OPENINGS[attack]
    with pytest.raises(AggregationError, match=said):
        act(scene)


# The coordinator puts something else in a site's place, and has all others confirm that list.

FORGERIES: dict[str, Callable[[Scene], dict[str, pb.Trained]]] = {
    "no signature": lambda s: swapped(s.trained, "east", signature=bytes(64)),
    "a signature of the coordinator's own": lambda s: swapped(
        s.trained, "east", signature=Identity.generate().sign("ciphertext", bytes(32))
    ),
    "another site's ciphertexts": lambda s: swapped(s.trained, "east", update=s.trained["south"].update),
    "another site's ciphertexts and signature": lambda s: swapped(
        s.trained,
        "east",
        update=s.trained["south"].update,
        signature=s.trained["south"].signature,
    ),
    "what it sent before, signed then": lambda s: swapped(
        s.trained, "east", update=s.before["east"].update, signature=s.before["east"].signature
    ),
    "one bit": lambda s: swapped(
        s.trained,
        "east",
        update=s.trained["east"].update[:-20]
        + bytes([s.trained["east"].update[-20] ^ 1])
        + s.trained["east"].update[-19:],
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_ciphertexts_that_a_site_did_not_sign_for_this_sum(scene: Scene, forgery: str) -> None:
    trained = FORGERIES[forgery](scene)
    # East itself does not confirm it; three others are enough.
    honest = [site for site in SITES if site != "east"]
    signatures = scene.sites.confirm(trained, honest, number=2)
    with pytest.raises(AggregationError, match="ciphertext: east did not sign these ciphertexts"):
        scene.open(signatures, trained)


def test_without_signatures_a_sum_would_have_old_ciphertexts_in_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the coordinator replays is opened with the rest where nobody checks."""
    monkeypatch.setattr("privacy.secagg.ckks.homomorphic_sum.check_contribution", lambda *_: None)
    trained = FORGERIES["what it sent before, signed then"](scene)
    scene.open(scene.sites.confirm(trained, [ME, "south", "west"], number=2), trained)


# What is not confirmed.

CONFIRMATIONS: dict[str, tuple[Callable[[Scene], object], str]] = {
    "too few": (
        lambda s: s.confirm_here(confirm_request(s.pick("east", ME), number=2)),
        "survivors: expected a sum of at least 3 sites, got 2",
    ),
    "nobody": (lambda s: s.confirm_here(pb.Confirm(number=2)), "survivors: expected a sum of at least 3"),
    "others without this site": (
        lambda s: s.confirm_here(confirm_request(s.pick("east", "south", "west"), number=2)),
        "survivors: expected this site's own ciphertexts",
    ),
    "this site with what it did not send": (
        lambda s: s.confirm_here(confirm_request(swapped(s.trained, ME, update=b"other"), number=2)),
        "survivors: expected this site's own ciphertexts",
    ),
    "a stranger": (
        lambda s: s.confirm_here(confirm_request(s.trained | {"x": s.trained["east"]}, number=2)),
        "cohort: x is not among the sites",
    ),
    "out of order": (
        lambda s: s.confirm_here(confirm_request(dict(reversed(s.trained.items())), number=2)),
        "cohort: expected distinct sites in order",
    ),
    "a site without a digest": (
        lambda s: s.confirm_here(pb.Confirm(number=2, survivors=SITES, digests=[bytes(32)] * 3)),
        "survivors: expected one digest a site",
    ),
    "a short digest": (
        lambda s: s.confirm_here(pb.Confirm(number=2, survivors=SITES, digests=[bytes(31)] * 4)),
        "size: expected the digest of east",
    ),
    "a second list": (
        lambda s: (s.confirm(), s.confirm_here(confirm_request(s.pick("east", ME, "south"), number=2))),
        "survivors: another list was confirmed",
    ),
    "the sum before": (
        lambda s: s.confirm_here(confirm_request(s.before, number=1)),
        "secrets: nothing is left to confirm",
    ),
}


@pytest.mark.parametrize("attack", CONFIRMATIONS)
def test_what_is_not_confirmed(scene: Scene, attack: str) -> None:
    act, said = CONFIRMATIONS[attack]
    with pytest.raises(AggregationError, match=said):
        act(scene)


def test_two_sums_that_differ_by_one_update_take_sites_that_forget(scene: Scene, tmp_path: Path) -> None:
    """Why one list is confirmed: the control is a federation whose disks are put back to before."""
    before = tmp_path / "before"
    shutil.copytree(scene.sites.folder, before)
    total = scene.open(scene.confirm())
    shutil.rmtree(scene.sites.folder)
    shutil.copytree(before, scene.sites.folder)
    scene.sites.restart()
    three = scene.pick("east", ME, "south")
    found = total - scene.open(scene.confirm(three), three)
    # Four updates are rounded in one sum, three in the other: the same ones, so only west's rounding is
    # left, and float32's of two sums, each below 4 · reach.
    assert np.abs(found - UPDATES["west"]).max() <= ERROR + 2 * 4 * REACH * 2.0**-24


# What a site does not contribute to, and whom it does not give the key.


def stranger(site: str) -> Member:
    return Member.sign(
        site, identity("x").derive("x"), identity=Identity.generate(), manifest=MANIFEST.digest
    )


def with_members(roster: Roster, *members: Member) -> pb.Roster:
    return pb.Roster(
        number=roster.number,
        members=[
            pb.Member(site=one.site, identity=one.identity, key=one.key, signature=one.signature)
            for one in sorted(members, key=lambda one: one.site)
        ],
    )


ROSTERS: dict[str, tuple[Callable[[Encrypting], pb.Roster], str]] = {
    "a stranger": (
        lambda s: with_members(s.roster(3), *list(s.members.values())[:3], stranger("x")),
        "peers: x is not known here",
    ),
    "a stranger under a site's name": (
        lambda s: with_members(s.roster(3), *list(s.members.values())[:3], stranger("west")),
        "peers: west is known here by another identity",
    ),
    "a session key that its site did not sign": (
        lambda s: with_members(
            s.roster(3), *list(s.members.values())[:3], replace(s.members["west"], key=bytes(32))
        ),
        "key: west did not sign",
    ),
    "this site with another session": (
        lambda s: with_members(
            s.roster(3), *(one for one in s.members.values() if one.site != ME), make_session(ME).join()
        ),
        "secrets: the list of sites has another session key",
    ),
    "others alone": (
        lambda s: write_roster(s.roster(3, ["east", "south", "west"])),
        "cohort: north is not among",
    ),
    "too few": (
        lambda s: with_members(s.roster(3), s.members["east"], s.members[ME]),
        "cohort: expected from 3 to 4 sites, got 2",
    ),
    "nobody": (lambda s: pb.Roster(), "cohort: expected from 3"),
    "a number again": (lambda s: write_roster(s.roster(2)), "replay: expected a sum after number 2"),
    "an earlier number": (lambda s: write_roster(s.roster(1)), "replay: expected a sum after number 2"),
}


@pytest.mark.parametrize("attack", ROSTERS)
@pytest.mark.parametrize("step", ["deal", "check", "contribute"])
def test_rosters_that_a_site_has_no_part_in(scene: Scene, attack: str, step: str) -> None:
    make, said = ROSTERS[attack]
    session = scene.sites.sessions[ME]
    request = train_request(scene.roster, scene.dealing, ME)
    request.roster.CopyFrom(make(scene.sites))
    steps = {
        "deal": lambda: session.deal(request.roster),
        "check": lambda: session.check(request),
        "contribute": lambda: session.contribute(UPDATES[ME], request, reach=REACH),
    }
    with pytest.raises(AggregationError, match=said):
        steps[step]()


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


DEALINGS: dict[str, tuple[Callable[[Scene, Dealing], dict[str, Any]], str]] = {
    "another salt": (lambda s, d: {"key": bytes(32)}, "sealed: what east sealed cannot be opened"),
    "another commitment": (lambda s, d: {"commitment": bytes(32)}, "key: east sealed another key"),
    "another dealer": (lambda s, d: {"site": "south"}, "sealed: what south sealed cannot be opened"),
    "a changed opener": (
        lambda s, d: {"sealed": (d.sealed[0], *map(flipped, d.sealed[1:]))},
        "sealed: what east sealed cannot be opened",
    ),
    "a changed key": (
        lambda s, d: {"sealed": (flipped(d.sealed[0]), *d.sealed[1:])},
        "sealed: what east sealed cannot be opened",
    ),
    "another's opener": (
        lambda s, d: {"sealed": (d.sealed[0], *reversed(d.sealed[1:]))},
        "sealed: what east sealed cannot be opened",
    ),
    "one of another list": (
        lambda s, d: {"sealed": s.dealing.sealed, "key": s.dealing.key},
        "sealed: what east sealed cannot be opened",
    ),
    "a key that is too long": (
        lambda s, d: {"sealed": (bytes(200_000), *d.sealed[1:])},
        "size: expected a sealed key",
    ),
}


@pytest.mark.parametrize("attack", DEALINGS)
def test_keys_that_were_not_sealed_for_this_site(scene: Scene, attack: str) -> None:
    change, said = DEALINGS[attack]
    lose(scene, "west")
    roster = scene.sites.roster(3)
    dealing = scene.sites.dealing(roster)
    request = train_request(roster, replace(dealing, **change(scene, dealing)), "west")
    with pytest.raises(AggregationError, match=said):
        scene.sites.sessions["west"].check(request)
    scene.sites.sessions["west"].check(train_request(roster, dealing, "west"))


def lose(scene: Scene, site: str) -> None:
    """A site's disk is lost, and it joins again."""
    shutil.rmtree(scene.sites.folder / site)
    scene.sites.restart()


def test_a_site_without_the_key_is_not_asked_to_do_without(scene: Scene) -> None:
    lose(scene, "west")
    roster = scene.sites.roster(3)
    request = train_request(roster, scene.sites.dealing(roster), "west")
    request.cohort.dealt[0].sealed = b""
    with pytest.raises(LostError, match="does not have the key"):
        scene.sites.sessions["west"].check(request)


def test_what_is_sealed_and_no_key(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that deals nonsense: TenSEAL is asked, and it is refused."""
    lose(scene, "west")
    lose(scene, "east")
    roster = scene.sites.roster(3)
    monkeypatch.setattr(
        "privacy.secagg.ckks.homomorphic_sum.make_key", lambda _parameters: b"no key" * 8000
    )
    request = train_request(roster, scene.sites.dealing(roster), "west")
    with pytest.raises(ProtocolError, match="expected a key for homomorphic sums, got bytes=48000"):
        scene.sites.sessions["west"].check(request)


@pytest.mark.parametrize("count", [0, 2])
def test_a_cohort_of_other_than_one_dealing(scene: Scene, count: int) -> None:
    roster = scene.sites.roster(3)
    request = train_request(roster, scene.sites.dealing(roster), ME)
    one = request.cohort.dealt.pop()
    request.cohort.dealt.extend([one] * count)
    with pytest.raises(AggregationError, match=f"expected one dealing of the sites' key, got {count}"):
        scene.sites.sessions[ME].check(request)


# What a site was asked for is in what it signs.

OTHERWISE: dict[str, dict[str, Any]] = {
    "another round": {"round": 2},
    "another adapter": {"adapter": bytes(range(8))},
    "another noise": {"noise_std": 1.0},
}


def trained_otherwise(scene: Scene, changes: dict[str, Any]) -> dict[str, pb.Trained]:
    """A third sum, in which one site is asked for something else than the others."""
    roster = scene.sites.roster(3)
    dealing = scene.sites.dealing(roster)
    trained = scene.sites.train(roster, dealing, [site for site in SITES if site != ME])
    request = train_request(roster, dealing, ME)
    for name, value in changes.items():
        setattr(request, name, value)
    trained[ME] = scene.sites.sessions[ME].contribute(UPDATES[ME], request, reach=REACH)
    return {site: trained[site] for site in SITES}


@pytest.mark.parametrize("what", OTHERWISE)
def test_nobody_opens_a_sum_with_a_site_in_it_that_was_asked_for_something_else(
    scene: Scene, what: str
) -> None:
    """Those who were asked for nothing would otherwise open that one's update."""
    trained = trained_otherwise(scene, OTHERWISE[what])
    signatures = scene.sites.confirm(trained, number=3)
    some = {site: signature for site, signature in signatures.items() if site != ME}
    for signed in (signatures, some):
        for site in SITES:
            with pytest.raises(AggregationError, match=r"ciphertext: .* did not sign these ciphertexts"):
                scene.open(signed, trained, number=3, site=site)


@pytest.mark.parametrize("what", OTHERWISE)
def test_those_who_were_asked_for_one_thing_open_their_sum(scene: Scene, what: str) -> None:
    trained = trained_otherwise(scene, OTHERWISE[what])
    del trained[ME]
    signatures = scene.sites.confirm(trained, number=3)
    found = scene.open(signatures, trained, number=3, site="east")
    # Each update is off by ERROR at most; the sum is rounded to float32.
    assert np.abs(found - plain_sum(trained)).max() <= 3 * ERROR + 3 * REACH * 2.0**-24


@pytest.mark.parametrize("what", OTHERWISE)
def test_without_what_was_asked_in_the_signatures_it_is_opened(
    scene: Scene, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: what refuses above is what was asked, and nothing else."""
    monkeypatch.setattr("client.sums.homomorphic_session.asked_to_train", lambda _request: b"")
    trained = trained_otherwise(scene, OTHERWISE[what])
    signatures = scene.sites.confirm(trained, number=3)
    found = scene.open(signatures, trained, number=3, site="east")
    assert np.abs(found - plain_sum()).max() <= 4 * ERROR + 4 * REACH * 2.0**-24


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_leaves_nothing(scene: Scene, value: float) -> None:
    roster = scene.sites.roster(3)
    request = train_request(roster, scene.sites.dealing(roster), ME)
    with pytest.raises(ProtocolError, match="finite"):
        scene.sites.sessions[ME].contribute(np.full(SIZE, value, np.float32), request, reach=REACH)
    scene.sites.sessions[ME].contribute(UPDATES[ME], request, reach=REACH)


# What is opened.


def test_all_of_a_sum(scene: Scene) -> None:
    # Of four updates each is off by ERROR at most, and the sum, below 4 · reach, is rounded to float32.
    found = scene.open(scene.confirm())
    assert np.abs(found - plain_sum()).max() <= 4 * ERROR + 4 * REACH * 2.0**-24


@pytest.mark.parametrize("missing", SITES)
def test_a_sum_without_one(scene: Scene, missing: str) -> None:
    present = [site for site in SITES if site != missing]
    trained = scene.pick(*present)
    found = scene.open(scene.confirm(trained), trained, site=present[-1])
    assert np.abs(found - plain_sum(present)).max() <= 3 * ERROR + 3 * REACH * 2.0**-24


def test_what_is_beyond_the_reach_is_cut(scene: Scene) -> None:
    roster = scene.sites.roster(3)
    far = {
        site: np.full(SIZE, sign * 5 * REACH, np.float32)
        for site, sign in zip(SITES, [1, 1, 1, -1], strict=True)
    }
    scene.trained = scene.sites.train(roster, scene.sites.dealing(roster), updates=far)
    found = scene.open(scene.sites.confirm(scene.trained, number=3), number=3)
    assert np.abs(found - 2 * REACH).max() <= 4 * REACH * 2.0**-24


def test_one_list_may_be_signed_again(scene: Scene) -> None:
    assert scene.confirm() == scene.confirm()


def test_one_update_twice_looks_different(scene: Scene) -> None:
    roster = scene.sites.roster(3)
    again = scene.sites.train(roster, scene.sites.dealing(roster))
    assert {again[site].update for site in SITES}.isdisjoint(scene.trained[site].update for site in SITES)


def test_a_dealing_says_nothing_twice(scene: Scene) -> None:
    """Neither salt nor sealed bytes come again, though list, sites and key are the same."""
    roster = scene.sites.roster(3)
    one, other = scene.sites.dealing(roster), scene.sites.dealing(roster)
    assert one.commitment == other.commitment
    assert one.key != other.key
    assert not set(one.sealed) & set(other.sealed)


def test_whoever_has_no_key_gets_the_same_one(scene: Scene) -> None:
    lose(scene, "west")
    roster = scene.sites.roster(3)
    dealing = scene.sites.dealing(roster, "south")
    assert dealing.commitment == scene.dealing.commitment
    scene.trained = scene.sites.train(roster, dealing)
    found = scene.open(scene.sites.confirm(scene.trained, number=3), number=3, site="west")
    assert np.abs(found - plain_sum()).max() <= 4 * ERROR + 4 * REACH * 2.0**-24


def test_a_new_key_takes_the_old_ones_place(scene: Scene) -> None:
    lose(scene, "west")
    roster = scene.sites.roster(3)
    dealing = scene.sites.dealing(roster, "west")
    assert dealing.commitment != scene.dealing.commitment
    scene.trained = scene.sites.train(roster, dealing)
    found = scene.open(scene.sites.confirm(scene.trained, number=3), number=3)
    assert np.abs(found - plain_sum()).max() <= 4 * ERROR + 4 * REACH * 2.0**-24


# What outlives the process.


def test_a_site_comes_back_from_disk_after_each_step(tmp_path: Path) -> None:
    sites = Encrypting(tmp_path)
    sites.restart()
    roster = sites.roster()
    dealing = sites.dealing(roster)
    sites.restart()
    trained = sites.train(roster, dealing)
    sites.restart()
    with pytest.raises(AggregationError, match="replay"):
        sites.train(roster, dealing)
    signatures = sites.confirm(trained)
    sites.restart()
    with pytest.raises(AggregationError, match="another list was confirmed"):
        sites.confirm({site: trained[site] for site in SITES[:3]}, [ME])
    request = open_request(trained, signatures)
    found = sites.open(ME, request)
    assert np.abs(found - plain_sum()).max() <= 4 * ERROR + 4 * REACH * 2.0**-24
    sites.restart()
    with pytest.raises(LostError, match="nothing is left"):
        sites.open(ME, request)
    # It is the same session all along.
    assert sites.roster(2).members == roster.members


@pytest.mark.parametrize("step", ["deal", "contribute", "confirm", "open"])
def test_nothing_leaves_that_is_not_written_down(
    scene: Scene, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = scene.sites.sessions[ME]
    roster = scene.sites.roster(3)
    request = train_request(roster, scene.sites.dealing(roster), ME)
    signatures = scene.sites.confirm(scene.trained, [site for site in SITES if site != ME], number=2)
    if step == "open":
        scene.confirm()
    steps: dict[str, Callable[[], object]] = {
        "deal": lambda: session.deal(write_roster(roster)),
        "contribute": lambda: session.contribute(UPDATES[ME], request, reach=REACH),
        "confirm": lambda: session.confirm(confirm_request(scene.trained, number=2)),
        "open": lambda: scene.sites.open(ME, open_request(scene.trained, signatures, number=2)),
    }

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("client.sums.run_secrets.write_durably", full)
        with pytest.raises(OSError, match="No space"):
            steps[step]()
    steps[step]()  # nothing had happened


def test_secrets_are_their_owners_alone(scene: Scene) -> None:
    path = scene.sites.folder / ME / "secrets" / "run.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_damaged_secrets(scene: Scene) -> None:
    path = scene.sites.folder / ME / "secrets" / "run.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AggregationError, match="secrets: a run's secrets at this site are damaged"):
        make_session(ME, path).join()


def test_another_sites_secrets(scene: Scene) -> None:
    path = scene.sites.folder / "east" / "secrets" / "run.json"
    with pytest.raises(AggregationError, match="of another site or run"):
        make_session(ME, path).join()


def test_without_secrets_a_site_joins_again() -> None:
    with pytest.raises(LostError, match="joins again"):
        make_session(ME).deal(write_roster(Encrypting().roster()))


def test_what_was_forgotten_is_gone(scene: Scene) -> None:
    session = scene.sites.sessions[ME]
    session.forget()
    session.forget()
    assert not (scene.sites.folder / ME / "secrets" / "run.json").exists()
    with pytest.raises(LostError, match="joins again"):
        session.deal(write_roster(scene.roster))
    assert session.join() != scene.sites.members[ME]


def test_the_state_has_no_other_sites_ciphertexts(scene: Scene) -> None:
    """What is written at each step is the key and a few digests: it does not grow."""
    path = scene.sites.folder / ME / "secrets" / "run.json"
    assert len(path.read_bytes()) < 110_000


# How much room an answer takes at the agent.


def test_answers_fit_the_room_that_is_made_for_them(scene: Scene) -> None:
    roster = scene.sites.roster(3)
    request = train_request(roster, scene.sites.dealing(roster), ME)
    request.adapter = bytes(4 * SIZE)
    deal = pb.Request(deal=pb.Deal(roster=write_roster(roster)))
    asked = pb.Request(train=request)
    dealing = write_dealing(scene.sites.dealing(roster)).SerializeToString()
    assert len(dealing) <= longest_answer(deal.SerializeToString())
    trained = scene.sites.sessions[ME].contribute(UPDATES[ME], request, reach=REACH)
    assert len(trained.SerializeToString()) <= longest_answer(asked.SerializeToString())


def test_the_room_of_other_answers_is_their_requests() -> None:
    plain = pb.Request(train=pb.Train(adapter=bytes(1000))).SerializeToString()
    assert longest_answer(plain) == len(plain)
    assert longest_answer(b"\xff no request") == 0


def test_a_holder_is_told_which_key_it_is(scene: Scene) -> None:
    roster = scene.sites.roster(3)
    dealing = scene.sites.dealing(roster)
    told = told_of_key(dealing)
    assert told.sealed == b""
    request = train_request(roster, dealing, ME)
    request.cohort.dealt[0].sealed = b""
    scene.sites.sessions[ME].check(request)
