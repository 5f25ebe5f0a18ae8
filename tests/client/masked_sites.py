"""Whole sites in homes that lie side by side, and a coordinator that sums their updates under masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.site import Site
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Member, Roster
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.sums.mask_messages import (
    asked_to_evaluate,
    asked_to_train,
    make_rules,
    read_dealing,
    read_shares,
    write_cohort,
    write_roster,
)
from protocol.sums.update_encoding import make_encoding, plan_for_site, vector_size
from simulation.simulated_federation import World
from tests.client.sites import ask


class MaskedSites:
    """All sites of a world, joined. ``asked`` has digests of what was asked for last, by a sum's number."""

    def __init__(self, world: World, homes: Path) -> None:
        self.world = world
        self.manifest: Manifest = world.manifest("run")
        self.rules = make_rules(self.manifest)
        self.homes = homes
        self.sites: dict[str, Site] = {}
        self.members: dict[str, Member] = {}
        self.noise_std = 0.0
        self.asked: dict[int, bytes] = {}
        for name in world.site_names:
            self.restart(name)
            self.join(name)

    def restart(self, name: str) -> None:
        self.sites[name] = self.world.site(name, home=self.homes / name)

    def join(self, name: str) -> None:
        joined = self.ask(name, "joined", join=pb.Join(manifest=self.manifest.content))
        self.members[name] = Member(
            site=name,
            identity=joined.public_key,
            key=joined.session_key,
            signature=joined.session_signature,
        )
        self.noise_std = max(self.noise_std, joined.noise_std)

    def ask(self, name: str, expected: str, **request: Any) -> Any:
        reply = ask(self.sites[name], **request)
        assert reply.WhichOneof("kind") == expected, reply.refused.reason
        return getattr(reply, expected)

    def roster(self, number: int = 1) -> Roster:
        return Roster(rules=self.rules, number=number, members=tuple(self.members.values()))

    def deal(self, roster: Roster) -> dict[str, Cohort]:
        deal = pb.Deal(manifest_digest=self.manifest.digest, roster=write_roster(roster))
        dealings = {name: read_dealing(name, self.ask(name, "dealing", deal=deal)) for name in self.sites}
        return forward(roster, dealings)

    def train_request(
        self,
        cohort: Cohort,
        *,
        number: int = 1,
        round_number: int = 1,
        following: Roster | None = None,
        adapter: NDArray[np.float32] | None = None,
    ) -> pb.Train:
        request = pb.Train(
            manifest_digest=self.manifest.digest,
            round=round_number,
            adapter=to_bytes(self.world.initial_adapter if adapter is None else adapter),
            cohort=write_cohort(cohort, number=number),
            noise_std=self.noise_std,
        )
        if following is not None:
            request.next.CopyFrom(write_roster(following))
        self.asked[number] = asked_to_train(request)
        return request

    def evaluate_request(
        self, cohort: Cohort, *, number: int = 1, adapter: NDArray[np.float32] | None = None
    ) -> pb.Evaluate:
        request = pb.Evaluate(
            manifest_digest=self.manifest.digest,
            adapter=to_bytes(self.world.initial_adapter if adapter is None else adapter),
            cohort=write_cohort(cohort, number=number),
        )
        self.asked[number] = asked_to_evaluate(request)
        return request

    def train(
        self,
        cohorts: Mapping[str, Cohort],
        *,
        number: int = 1,
        following: Roster | None = None,
        **changes: Any,
    ) -> tuple[dict[str, Words], dict[str, Dealing]]:
        """The masked words of all sites, and their dealings for the next sum."""
        masked, dealings = {}, {}
        for name, cohort in cohorts.items():
            request = self.train_request(cohort, number=number, following=following, **changes)
            trained = self.ask(name, "trained", train=request)
            masked[name] = self.ring.unpack(trained.update, size=self.size)
            if trained.HasField("next"):
                dealings[name] = read_dealing(name, trained.next)
        return masked, dealings

    def uncover(
        self,
        roster: Roster,
        cohorts: Mapping[str, Cohort],
        masked: Mapping[str, Words],
        *,
        ring: Ring | None = None,
    ) -> Words:
        """The sum of the survivors' words, after they have confirmed and revealed."""
        survivors = sorted(masked)
        request = self.unmask_request(roster, survivors)
        shares = {
            name: read_shares(self.ask(name, "unmasked", unmask=request), roster) for name in survivors
        }
        some = next(iter(masked.values()))
        ring = ring or self.ring
        return unmask(
            add_up(masked.values(), ring=ring, size=len(some)),
            ring=ring,
            roster=roster,
            cohort=replace(cohorts[survivors[0]], asked=self.asked[roster.number]),
            survivors=survivors,
            shares=shares,
        )

    def unmask_request(self, roster: Roster, survivors: Sequence[str]) -> pb.Unmask:
        """Signed by all survivors."""
        digest, number = self.manifest.digest, roster.number
        confirm = pb.Confirm(manifest_digest=digest, number=number, survivors=survivors)
        signatures = [
            pb.Signed(site=name, signature=self.ask(name, "confirmed", confirm=confirm).signature)
            for name in survivors
        ]
        return pb.Unmask(manifest_digest=digest, number=number, survivors=survivors, signatures=signatures)

    def mean(self, words: Words, *, number: int = 1, count: int | None = None) -> NDArray[np.float32]:
        """A sum of words as the mean of the updates in it."""
        unit = self.manifest.job.privacy.unit
        plan = plan_for_site(self.manifest, update_size=self.update_size) if unit == "site" else None
        encoding = make_encoding(
            self.manifest,
            update_size=self.update_size,
            number=number,
            noise_std=self.noise_std,
            plan=plan,
        )
        return encoding.mean(words, count=count or len(self.sites))

    @property
    def ring(self) -> Ring:
        return Ring(self.manifest.job.aggregation.modulus_bits)

    @property
    def update_size(self) -> int:
        return self.world.adapted.layout.update_size

    @property
    def size(self) -> int:
        return vector_size(self.manifest.job, self.update_size)


def plain_mean(world: World, homes: Path, names: Iterable[str]) -> NDArray[np.float32]:
    """The mean of what the same sites send in the first round where nothing is masked."""
    manifest, found = world.manifest("run"), []
    for name in names:
        site = world.site(name, home=homes / name)
        ask(site, join=pb.Join(manifest=manifest.content))
        request = pb.Train(
            manifest_digest=manifest.digest, round=1, adapter=to_bytes(world.initial_adapter)
        )
        found.append(np.frombuffer(ask(site, train=request).trained.update, "<f4"))
    mean: NDArray[np.float32] = np.mean(found, axis=0)
    return mean
