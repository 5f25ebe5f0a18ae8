"""A coordinator that tells sites different things: what that buys it, with and without confirmation.

With n sites asked, threshold t, sums of f or more, and c sites that collude, a list of survivors that t
sites signed is the only one if c < 2t − n; then no single update is read. Without signatures that is not
so, and below that bound it is shown for which (n, t, f, c) the coordinator reads one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pytest

from privacy.errors import AggregationError
from privacy.secagg import roster as roster_module
from privacy.secagg.graph import Graph
from privacy.secagg.masks import site_steps as secagg
from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.ring import Ring
from privacy.secagg.roster import Cohort
from tests.privacy.exchanges import (
    Adversary,
    Sites,
    draw_vectors,
    forge_signature,
    make_rules,
    names,
    usual_threshold,
)

RING = Ring(32)
Names = tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """What one honest site is told: the cohort it masks in, and who of it survives."""

    cohort: Names
    survivors: Names


class Liar:
    """A coordinator with the first ``colluding`` sites on its side, before an exchange of the real code.

    Answers are kept: it tries thousands of stories on the same sites.
    """

    def __init__(self, count: int, *, threshold: int, colluding: int, confirm: bool) -> None:
        # The rules' own check of the bound is passed by: they are not told of the colluders.
        self.rules = make_rules(count, threshold=threshold, confirm=confirm)
        self.colluders, self.honest = names(count)[:colluding], names(count)[colluding:]
        self.everyone = tuple(names(count))
        self.sites = Sites(self.rules)
        self.roster = self.sites.roster()
        self.dealings = self.sites.deal(self.roster)
        self.vectors = draw_vectors(self.everyone, ring=RING, size=4)
        self._masked: dict[tuple[str, Names], tuple[Sites, np.ndarray]] = {}
        self._answers: dict[tuple[str, Told, Names], dict[str, bytes]] = {}

    def cohort(self, site: str, shown: Names) -> Cohort:
        return forward(self.roster, {each: self.dealings[each] for each in shown})[site]

    def masked(self, site: str, shown: Names) -> tuple[Sites, np.ndarray]:
        if (site, shown) not in self._masked:
            sites = copy(self.sites)
            found = sites.contribute({site: self.cohort(site, shown)}, self.vectors, ring=RING)
            self._masked[site, shown] = sites, found[site]
        return self._masked[site, shown]

    def answer(self, site: str, told: Told, signers: Names) -> dict[str, bytes]:
        """What a site reveals: nothing, if it refuses. All that can sign its list do, colluders too."""
        if (site, told, signers) not in self._answers:
            sites = copy(self.masked(site, told.cohort)[0])
            digest = self.cohort(site, told.cohort).digest(self.roster)
            signatures = {
                each: forge_signature(each, digest, told.survivors)
                for each in (*signers, *self.colluders)
                if each in told.survivors
            }
            try:
                sites.confirm(told.survivors, [site])
                found = sites.reveal(told.survivors, signatures, [site])[site]
            except AggregationError:
                found = {}
            self._answers[site, told, signers] = found
        return self._answers[site, told, signers]

    def answers(self, story: Mapping[str, Told]) -> dict[str, dict[str, bytes]]:
        found = {}
        for site, told in story.items():
            # A site signs one list: honest signatures are those of sites that were told the same.
            signers = tuple(sorted(other for other in story if story[other] == told))
            found[site] = self.answer(site, told, signers)
        return found

    def read(self, story: Mapping[str, Told]) -> list[str]:
        """Whose updates this story opens: their secrets are counted first, and then really taken off."""
        answers = self.answers(story)
        seeds = dict.fromkeys(self.everyone, len(self.colluders))
        keys = dict(seeds)
        for holder, shares in answers.items():
            survivors = story[holder].survivors
            for site in shares:
                (seeds if site in survivors else keys)[site] += 1
        threshold = self.rules.threshold
        opened = []
        for site, told in story.items():
            partners = [each for each in told.cohort if each in self.honest and each != site]
            if seeds[site] >= threshold and (
                keys[site] >= threshold or all(keys[each] >= threshold for each in partners)
            ):
                self.take_off(site, story, answers)
                opened.append(site)
        return opened

    def take_off(
        self, site: str, story: Mapping[str, Told], answers: Mapping[str, Mapping[str, bytes]]
    ) -> None:
        """The attack itself: one site's vector, without its masks."""
        adversary = Adversary(self.roster, self.colluders)
        colluding = copy(self.sites)
        colluding.contribute(
            {each: self.cohort(each, self.everyone) for each in self.colluders}, self.vectors, ring=RING
        )
        adversary.learn_sites(colluding)
        for holder, shares in answers.items():
            adversary.learn_revealed(story[holder].survivors, {holder: shares})
        shown = story[site].cohort
        masked = self.masked(site, shown)[1]
        residue, unknown = adversary.peel(site, masked, self.cohort(site, shown), ring=RING)
        assert unknown == 0
        np.testing.assert_array_equal(residue, self.vectors[site])


def choices(sites: Names, *, least: int, among: str) -> Iterator[Names]:
    """Every choice of ``least`` or more sites with one of them among it."""
    for size in range(least, len(sites) + 1):
        for chosen in combinations(sites, size):
            if among in chosen:
                yield chosen


def stories(liar: Liar) -> Iterator[dict[str, Told]]:
    """Everything that the honest sites can be told so that they answer: each a cohort, each a list."""
    min_survivors = liar.rules.min_survivors
    options = [
        [
            Told(cohort=cohort, survivors=survivors)
            for cohort in choices(liar.everyone, least=min_survivors, among=site)
            for survivors in choices(cohort, least=min_survivors, among=site)
        ]
        for site in liar.honest
    ]
    for told in product(*options):
        yield dict(zip(liar.honest, told, strict=True))


def opens_one(count: int, *, threshold: int, min_survivors: int, colluding: int) -> bool:
    """Whether lists that nobody signs open an update, by counting, for c < 2t − n.

    A site is shown a cohort of f: k = f − c − 1 honest ones beside it. Each of these needs t − c honest
    holders that take it for dropped out. A list leaves out e = n − f sites at most, never its reader: so
    e holders outside leave out min(k, e) of the k, and these themselves min(k − 1, e).
    """
    spare, partners = count - min_survivors, min_survivors - colluding - 1
    left_out = spare * min(partners, spare) + partners * min(partners - 1, spare)
    return threshold <= count - 2 and left_out >= partners * (threshold - colluding)


def isolating(liar: Liar) -> dict[str, Told]:
    """The story of ``opens_one``: each reader's list is without those that were left out least so far."""
    min_survivors, target = liar.rules.min_survivors, liar.honest[0]
    partners = liar.honest[1 : min_survivors - len(liar.colluders)]
    small = tuple(sorted([*liar.colluders, target, *partners]))
    story = {target: Told(cohort=small, survivors=small)}
    left_out = dict.fromkeys(partners, 0)
    for site in [*liar.honest[1 + len(partners) :], *partners]:
        dropped = sorted((each for each in partners if each != site), key=lambda each: left_out[each])
        dropped = dropped[: len(liar.everyone) - min_survivors]
        for each in dropped:
            left_out[each] += 1
        survivors = tuple(each for each in liar.everyone if each not in dropped)
        story[site] = Told(cohort=liar.everyone, survivors=survivors)
    return story


def halves(liar: Liar, *, first: int) -> dict[str, Told]:
    """So many honest sites are told that all survive, the others that the first of these did not."""
    lists = liar.everyone, tuple(site for site in liar.everyone if site != liar.honest[0])
    return {
        site: Told(cohort=liar.everyone, survivors=lists[place >= first])
        for place, site in enumerate(liar.honest)
    }


# Every story there is.

SMALL = [(3, 2, 0), (4, 3, 0), (4, 3, 1), (5, 4, 1), (5, 4, 2)]
# What sites answer with confirmation is a part of what they answer without.
BELOW = [(*each, confirm) for each in SMALL for confirm in (True, False)] + [(5, 4, 0, False)]


@pytest.mark.parametrize(("count", "threshold", "colluding", "confirm"), BELOW)
@pytest.mark.exhaustive(but=4)
def test_below_the_bound_no_story_opens_an_update(
    count: int, threshold: int, colluding: int, confirm: bool
) -> None:
    """Without confirmation too, for as few as these: where the counting says so."""
    assert colluding < 2 * threshold - count
    assert not opens_one(count, threshold=threshold, min_survivors=threshold, colluding=colluding)
    liar = Liar(count, threshold=threshold, colluding=colluding, confirm=confirm)
    assert not any(liar.read(story) for story in stories(liar))


@pytest.mark.parametrize(("count", "threshold", "colluding"), [(3, 2, 1), (4, 3, 2), (5, 4, 3)])
def test_at_the_bound_some_story_does(count: int, threshold: int, colluding: int) -> None:
    """Control: with one more that colludes, c = 2t − n, confirmation or not."""
    assert colluding == 2 * threshold - count
    liar = Liar(count, threshold=threshold, colluding=colluding, confirm=True)
    assert any(liar.read(story) for story in stories(liar))


# Both secrets of one site, from two halves.

BOUNDS = [(4, 3), (5, 3), (5, 4), (6, 4), (7, 5), (8, 6), (9, 7), (10, 7)]


@pytest.mark.parametrize(("count", "threshold"), BOUNDS)
def test_two_halves_that_sign_two_lists_give_both_secrets(count: int, threshold: int) -> None:
    liar = Liar(count, threshold=threshold, colluding=2 * threshold - count, confirm=True)
    # Of two honest sites the other one is then read too: its only unknown pair mask was with the first.
    assert liar.honest[0] in liar.read(halves(liar, first=len(liar.honest) // 2))


@pytest.mark.parametrize(("count", "threshold"), BOUNDS)
@pytest.mark.parametrize("confirm", [True, False])
def test_with_one_colluder_less_no_two_halves_do(count: int, threshold: int, confirm: bool) -> None:
    liar = Liar(count, threshold=threshold, colluding=2 * threshold - count - 1, confirm=confirm)
    for first in range(1, len(liar.honest) + 1):
        story = halves(liar, first=first)
        assert liar.read(story) == []
        if confirm:
            answering = {story[site].survivors for site, shares in liar.answers(story).items() if shares}
            assert len(answering) <= 1


@pytest.mark.parametrize(("count", "threshold"), BOUNDS)
def test_the_rules_know_the_bound(count: int, threshold: int) -> None:
    at_bound = 2 * threshold - count
    min_survivors = min(count, max(threshold, at_bound + 1))
    make_rules(count, threshold=threshold, min_survivors=min_survivors, colluding=at_bound - 1)
    with pytest.raises(AggregationError) as refused:
        make_rules(count, threshold=threshold, min_survivors=min_survivors, colluding=at_bound)
    assert refused.value.rule == "threshold"


# One site alone, without both secrets of anybody.


def sizes() -> Iterator[tuple[int, int, int]]:
    """Sites up to eight, every threshold, every number of colluders that the rules accept."""
    for count in range(3, 9):
        for threshold in range(count // 2 + 1, count + 1):
            for colluding in range(min(2 * threshold - count, threshold - 1)):
                yield count, threshold, colluding


def test_without_confirmation_the_counting_says_when_an_update_opens() -> None:
    """Every size: where the counting promises a story it works in the code, and elsewhere it fails."""
    opened = set()
    for count, threshold, colluding in sizes():
        liar = Liar(count, threshold=threshold, colluding=colluding, confirm=False)
        found = liar.read(isolating(liar))
        expected = opens_one(count, threshold=threshold, min_survivors=threshold, colluding=colluding)
        assert found == ([liar.honest[0]] if expected else []), (count, threshold, colluding)
        if expected:
            opened.add((count, threshold, colluding))
    assert {(5, 3, 0), (7, 4, 0), (8, 5, 0)} <= opened


@pytest.mark.parametrize(("count", "least"), [(7, 2), (8, 3), (10, 2), (20, 4), (100, 14)])
def test_at_the_usual_threshold_some_must_collude_for_it(count: int, least: int) -> None:
    """The numbers of docs/threat-model.md."""
    threshold = usual_threshold(count)
    opening = [
        colluding
        for colluding in range(2 * threshold - count)
        if opens_one(count, threshold=threshold, min_survivors=threshold, colluding=colluding)
    ]
    assert min(opening) == least


def test_confirmation_stops_that_story() -> None:
    for count, threshold, colluding in sizes():
        if opens_one(count, threshold=threshold, min_survivors=threshold, colluding=colluding):
            liar = Liar(count, threshold=threshold, colluding=colluding, confirm=True)
            assert liar.read(isolating(liar)) == []


def test_one_who_is_shown_a_smaller_cohort_alone() -> None:
    """It takes c ≥ t + f − n: those outside its cohort, and who colludes, must be t that sign one list."""
    for colluding, opened in ((2, True), (1, False)):
        liar = Liar(6, threshold=4, colluding=colluding, confirm=True)
        target, partners = liar.honest[0], liar.honest[1 : 4 - colluding]
        small = tuple(sorted([*liar.colluders, target, *partners]))
        survivors = tuple(site for site in liar.everyone if site not in partners)
        outside = [site for site in liar.honest if site not in small]
        story = {target: Told(cohort=small, survivors=small)}
        story |= {site: Told(cohort=liar.everyone, survivors=survivors) for site in outside}
        assert len(survivors) >= liar.rules.min_survivors
        assert liar.read(story) == ([target] if opened else [])


# Controls: what is taken out of a site is what had stopped it.


def test_signatures_that_nobody_checks_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module.Roster, "check_signatures", lambda *_, **__: None)
    liar = Liar(5, threshold=3, colluding=0, confirm=True)
    assert liar.read(isolating(liar)) == [liar.honest[0]]


def test_a_reader_that_is_left_out_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four sites, of which one colludes: the one partner's key takes its own share too."""
    liar = Liar(4, threshold=3, colluding=1, confirm=False)
    target, partner, outside = liar.honest
    small = tuple(site for site in liar.everyone if site != outside)
    dropped = tuple(site for site in liar.everyone if site != partner)
    story = {
        target: Told(cohort=small, survivors=small),
        partner: Told(cohort=liar.everyone, survivors=dropped),
        outside: Told(cohort=liar.everyone, survivors=dropped),
    }
    assert liar.read(story) == []
    whole = secagg._check_survivors

    def without_itself(state: secagg.SiteState, survivors: Names, *, number: int) -> secagg.Holder:
        if state.site in survivors:
            return whole(state, survivors, number=number)
        return state.holder

    monkeypatch.setattr(secagg, "_check_survivors", without_itself)
    liar._answers.clear()
    assert liar.read(story) == [target]


# Among many, where each masks with a few.


def few_neighbours(size: int, **_: object) -> Graph:
    """Around a circle, each with two on either side; four of five holders uncover a secret."""
    near = [sorted({(place + step) % size for step in (-2, -1, 1, 2)}) for place in range(size)]
    return Graph(neighbours=tuple(map(tuple, near)), threshold=4)


def test_a_site_masks_for_no_cohort_without_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody colludes and survivors are confirmed, but one site is told that its neighbours dropped out.

    Others in its cohort are only said to be there, so there are enough: without a look at its neighbours it
    masks with nobody, and the sites that were told of all sign and reveal its seed.
    """
    monkeypatch.setattr(roster_module, "make_graph", few_neighbours)
    liar = Liar(12, threshold=7, colluding=0, confirm=True)
    target, others = liar.everyone[0], liar.everyone[1:]
    near = {liar.everyone[place] for place in liar.roster.graph.neighbours[0]}
    shown = tuple(site for site in liar.everyone if site not in near)
    with pytest.raises(AggregationError, match="masks with") as refused:
        liar.masked(target, shown)
    assert refused.value.rule == "cohort"
    # Control: without that look.
    monkeypatch.setattr(secagg, "check_cohort", lambda state, _cohort, *, number: state.dealer)
    story = {site: Told(cohort=liar.everyone, survivors=liar.everyone) for site in others}
    story[target] = Told(cohort=shown, survivors=shown)
    answers = liar.answers(story)
    adversary = Adversary(liar.roster)
    adversary.learn_revealed(liar.everyone, {site: answers[site] for site in others})
    seed = adversary.seed(target)
    masked = liar.masked(target, shown)[1]
    own = secagg.self_mask_key(seed, liar.cohort(target, shown).digest(liar.roster), target)
    np.testing.assert_array_equal(apply_masks(masked, ring=RING, subtract=[own]), liar.vectors[target])
