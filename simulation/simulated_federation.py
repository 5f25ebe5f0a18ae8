"""A simulated federation: one data set dealt out to sites that share one resident model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.custody.home import Home
from client.custody.policy import Policy
from client.host import Materials
from client.site import Site
from client.training.gradient_check import choose_gradients
from client.training.threads import choose_threads
from client.training.training import Trainer
from privacy.ledger.ledger_book import BOOK
from privacy.mechanisms.rng import keyed_entropy
from privacy.secagg.sealing import PairKeys
from protocol.job.draw import cohort_size
from protocol.job.job import ByColumn, DeviceSection, Job
from protocol.job.manifest import Manifest
from protocol.job.model_places import with_files
from protocol.job.ranks import with_named_ranks
from protocol.sums.update_encoding import plan_for_site
from runs.run_folder import RunFolder
from server.job_context import Workplace, check_federation
from server.public_features import check_public
from simulation.booked_homes import BookedHomes
from simulation.kept import Kept
from simulation.memory_host import MemoryHost
from simulation.partition import partition
from simulation.shared_work import SharedCheck, SharedPlans
from simulation.simulated_policy import simulated_policy
from simulation.smaller_models import SiteModel, SmallerModels
from tasks.data.examples import Examples
from tasks.data.oddities import find_oddities
from tasks.data.rows import joined
from tasks.group_task import ledger_digests
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.own_rows import (
    encode_own_rows,
    label_names,
    read_own_column,
    read_own_sources,
    read_validation_rows,
)
from tasks.registry import checked_job, section_of

# Sites that are drawn come and go: what is kept of them must not grow with their number. Where all sites
# stay, each holds its own, and these are for a variant of the run.
_EXAMPLES_BYTES = 256 << 20
_DRAWN_BYTES, _STAYING_BYTES = 96 << 20, 1 << 30


class World:
    """Everything that a job makes on one machine: data, model, sites and held-out examples.

    Two processes that build it from one job build the same. ``files`` are the places of models' files that
    are not where the job says, by their keys in ``[data]``. Raises the UserErrors of what it reads.
    """

    def __init__(self, job: Job, *, files: Mapping[str, str] | None = None) -> None:
        self.job = job = checked_job(job)
        self.device = choose_device(_repeatable(job))
        sources = read_own_sources(job)
        table = joined(sources)
        apart = read_validation_rows(job)
        self.labels = label_names(table, declared=section_of(job).classes, held_out=apart)
        kind = job.federation.partition
        groups: tuple[str, ...] = ()
        if isinstance(kind, ByColumn):
            groups = read_own_column(job, kind.column, key="federation.partition.column")
        parts = partition(job, table, groups=groups, counts=tuple(map(len, sources)))
        check_federation(job, parts.sites)
        self.job = job = with_named_ranks(job, tuple(parts.sites))
        base = load_base_model(with_files(job, files), labels=self.labels, device=self.device)
        adapted = AdaptedModel(base, job=job, device=self.device)
        if apart is None:
            held_out = encode_own_rows(adapted, table, parts.held_out, labels=self.labels)
        else:
            chosen = np.arange(len(apart))
            held_out = encode_own_rows(adapted, apart, chosen, labels=self.labels, key="data.validation")
        check_public(job, [table] if apart is None else [table, apart])
        self.workplace = Workplace(
            job,
            adapted=adapted,
            labels=self.labels,
            held_out=held_out,
            oddities=find_oddities(table, labels=self.labels, held_out=apart),
        )
        self.trainer = Trainer(choose_gradients(adapted))
        # By threads, what a batch took; nothing where none were tried.
        self.seconds_a_batch = choose_threads(self.trainer.gradients, job)
        whole = SiteModel(trainer=self.trainer, prefix=self.workplace.prefix)
        self._models = SmallerModels(whole=whole, labels=self.labels, device=self.device)
        # What was measured of the model, by what it was measured for: a variant of the run finds it.
        self.measured: dict[tuple[object, ...], int | None] = {}
        self._plans, self._check, self._pairs = SharedPlans(), SharedCheck(), PairKeys()
        self._peers: dict[Path, dict[str, bytes]] = {}
        self._booked: dict[Path, BookedHomes] = {}
        self._examples: Kept[str, Examples] = Kept(_EXAMPLES_BYTES)
        self._activations: Kept[str, Activations] = Kept(
            _STAYING_BYTES if job.federation.cohort is None else _DRAWN_BYTES
        )
        self._table = table
        self._rows, self.parts = parts.sites, parts.sources
        self.own_trainers: Mapping[str, Trainer] = {}  # of sites that train otherwise than all others
        # Of sites that have other examples than their rows are.
        self.own_examples: Mapping[str, tuple[Examples, Activations]] = {}

    @property
    def adapted(self) -> AdaptedModel:
        return self.workplace.adapted

    @property
    def prefix(self) -> FrozenPrefix:
        return self.workplace.prefix

    @property
    def initial_adapter(self) -> NDArray[np.float32]:
        return self.workplace.initial_adapter

    @property
    def held_out(self) -> Examples:
        return self.workplace.held_out

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(self._rows)

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples each site has."""
        return {name: len(rows) for name, rows in self._rows.items()}

    def site(
        self,
        name: str,
        *,
        home: Path,
        coordinator: bytes | None = None,
        forgetful: bool = False,
        candid: bool = False,
        flush: bool = True,
    ) -> Site:
        """One simulated site with its own ``home``, and a policy that allows just this job if it has none.

        ``coordinator`` is the public key that such a policy pins. The other sites' homes lie beside this
        one. See ``Site`` for ``forgetful`` and ``candid``; without ``flush`` the home outlasts a kill, and
        not a power cut.
        """
        place = Home(home, flush=flush)
        if not place.has_policy:
            place.write_policy(self.policy(coordinator))
        examples, activations = self._own(name)
        return self._site(
            name,
            place,
            examples,
            activations,
            peers=lambda: self._peers_in(home.parent, flush=flush),
            forgetful=forgetful,
            candid=candid,
        )

    def _site(
        self,
        name: str,
        home: Home,
        examples: Examples,
        activations: Activations,
        *,
        peers: Callable[[], Mapping[str, bytes]],
        forgetful: bool,
        candid: bool,
    ) -> Site:
        seed = self.job.seeds.noise
        trainer = self.own_trainers.get(name) or self._models.of(name, self.job).trainer
        task, contents = self.adapted.task, [self._table.contents[row] for row in self._rows[name]]
        members = ledger_digests(task, contents)
        materials = Materials(
            examples=examples,
            digests=tuple(map(task.digest, contents)),
            labels=self.labels,
            trainer=trainer,
            activations=activations,
            parts=self.parts.get(name, ()),
        )
        return Site(
            name=name,
            host=MemoryHost(alias=self.job.data.alias, members=members, materials=materials),
            home=home,
            peers=peers,
            forgetful=forgetful,
            candid=candid,
            keyed_entropy=None if seed is None else keyed_entropy(seed, name),
            planner=self._plans,
            check_unit=self._check,
            pairs=self._pairs,
        )

    def site_of_run(self, name: str, folder: RunFolder, *, forgetful: bool = False) -> Site:
        """A site of a run, at home in its folder.

        Whoever runs it is its custodian too. Homes that are the run's own are lost with it in a power cut;
        those that are kept beyond it, behind a link, are flushed as a real site's are.
        """
        homes = folder.path / "sites"
        if (homes / BOOK).exists():
            booked, (examples, activations) = self.booked_homes(folder), self._own(name)
            return self._site(
                name,
                booked.home(name),
                examples,
                activations,
                peers=lambda: booked.peers,
                forgetful=True,
                candid=True,
            )
        return self.site(
            name,
            home=homes / name,
            coordinator=folder.identity.public,
            forgetful=forgetful,
            candid=True,
            flush=homes.is_symlink(),
        )

    def booked_homes(self, folder: RunFolder) -> BookedHomes:
        """The homes of a run whose sites have no folders of their own; made if they are not there."""
        homes = folder.path / "sites"
        if homes not in self._booked:
            policy = self.policy(folder.identity.public)
            self._booked[homes] = BookedHomes(homes, policy=policy, names=self.site_names)
        return self._booked[homes]

    def policy(self, coordinator: bytes | None) -> Policy:
        """What a simulated site allows if nobody says otherwise: this job, once."""
        job = self.job
        epsilon = job.privacy.epsilon + job.metrics.epsilon
        if job.privacy.hides_sites and job.privacy.protects:
            # An example may turn a site's update into any other, which noise for the site hides less well.
            plan = plan_for_site(self.manifest("policy"), update_size=self.adapted.layout.update_size)
            epsilon = 1.001 * plan.as_charged().epsilon  # costs are rounded up
        return simulated_policy(job, coordinator, epsilon=epsilon)

    def _peers_in(self, homes: Path, *, flush: bool) -> dict[str, bytes]:
        """All sites' identities, whose homes lie side by side: read once for all of them."""
        if homes not in self._peers:
            found = {name: Home(homes / name, flush=flush).identity().public for name in self._rows}
            self._peers[homes] = found
        return self._peers[homes]

    def examples(self, name: str) -> Examples:
        """One simulated site's examples, read from their rows once."""

        def encode() -> Examples:
            return encode_own_rows(self.adapted, self._table, self._rows[name], labels=self.labels)

        return self._examples.get(name, encode, size=lambda examples: examples.nbytes)

    def variant(self, job: Job, *, sites: tuple[str, ...] | None = None) -> World:
        """The same data and resident model under another job, or with fewer of its sites.

        Only ``training``, ``privacy``, ``metrics`` and ``seeds.noise`` may differ: the rest is built.
        """
        other = copy.copy(self)
        other.job = job
        other.workplace = self.workplace.variant(job)
        other._rows = {name: self._rows[name] for name in sites or self.site_names}
        return other

    def unscored(self) -> World:
        """The same world, whose runs nobody scores: unless that decides when they end."""
        if self.job.training.patience is not None:
            return self
        other = copy.copy(self)
        other.workplace = self.workplace.unscored()
        return other

    def with_trainers(self, trainers: Mapping[str, Trainer]) -> World:
        """The same world, where these sites have trainers of their own and train one after another."""
        other = copy.copy(self)
        other.own_trainers = trainers
        return other

    def with_examples(self, given: Mapping[str, tuple[Examples, Activations]]) -> World:
        """The same world, where these sites train on other examples than their rows.

        With them come the activations that are kept of them, which several such worlds may share.
        """
        other = copy.copy(self)
        other.own_examples = given
        return other

    def digests(self) -> tuple[bytes, ...]:
        """What ledgers know the job's rows by, 32 bytes each, in the rows' order."""
        return tuple(map(self.adapted.task.digest, self._table.contents))

    def manifest(self, run: str) -> Manifest:
        """The job made exact, for a run of this name."""
        drawn = self.job.federation.cohort
        return self.workplace.manifest(
            run,
            cohort=cohort_size(drawn, sites=len(self._rows)),
            sites=() if drawn is None else tuple(sorted(self._rows)),
        )

    def create_folder(self, path: Path, *, flush: bool = False) -> RunFolder:
        """The folder of a new run, whole from the start; ``flush`` is for homes that outlast it."""
        return self.workplace.create_folder(
            path,
            manifest=self.manifest(path.name),
            examples_by_site=self.sizes,
            flush=flush,
        )

    def _own(self, name: str) -> tuple[Examples, Activations]:
        """What a site trains on, and what is kept of it."""
        if name in self.own_examples:
            return self.own_examples[name]
        examples = self.examples(name)
        return examples, self._kept(name, examples)

    def _kept(self, name: str, examples: Examples) -> Activations:
        """A site's activations: a site that is made again, or a variant of a run, finds what there is."""
        prefix = self._models.of(name, self.job).prefix
        return self._activations.get(
            name, lambda: Activations(prefix, examples), size=lambda kept: kept.nbytes
        )


def _repeatable(job: Job) -> DeviceSection:
    """The device, with one thread for a keyed run that names no number: rounding depends on threads."""
    if job.device.threads is not None or job.seeds.noise is None:
        return job.device
    return job.device.model_copy(update={"threads": 1})
