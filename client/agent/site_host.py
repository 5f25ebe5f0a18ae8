"""What an agent keeps in memory: the site's data, read once, and the model that was asked for last."""

from __future__ import annotations

import gc
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from client.agent.agent_telemetry import Telemetry
from client.custody.data_set import DataSet, mixed, read_data_set
from client.custody.home import Home
from client.custody.model_sources import check_models, local_job
from client.custody.site_file import SiteFile
from client.host import LocalData, Materials
from client.planning import FILE as PLANS_FILE
from client.planning import Planner, PlanningProcess
from client.refusal import answer_or_refuse
from client.session import check_labels, check_model
from client.site import Site
from client.statistics_site import CountableRows, StatisticsSite, asks_statistics
from client.training.cancellation import Between, no_pause
from client.training.devices import SeveralDevices
from client.training.gradient_check import choose_gradients
from client.training.recipe import Recipe, begin_with_sent
from client.training.threads import choose_threads
from client.training.training import Trainer
from privacy.canonical import canonical_json
from privacy.errors import ConfideError, ModelError, PolicyFileError, ProtocolError, UserError
from protocol.job.job import DeviceSection, Job
from protocol.job.manifest import Manifest
from protocol.job.model_places import named_models
from protocol.job.ranks import job_at
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import Opened
from tasks.group_task import GroupTask
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device, present_device, without_subnormals
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.model_spec import ModelSpec
from tasks.registry import compares_with_start, find_task, section_of, task_of
from tasks.task import WritingTask

log = logging.getLogger("confide.agent")


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A base model with an adapter, and what it was built for."""

    key: bytes
    trainer: Trainer
    prefix: FrozenPrefix


class SiteHost:
    """Answers requests with the site's own data, whatever the job says of where they are.

    It reads all data sets when it is made, and what single rows hold is never a reason to refuse: a row
    that cannot be used is a blank example (see ``tasks.task``). One model is in memory at a
    time, and it knows nothing of the job that it was loaded for but what is in its key. Plans are
    made by ``planner``, a process with the limits that ``site_file`` sets if it is None. Used on one
    thread. Raises DataError and PolicyFileError when it is made.
    """

    def __init__(
        self,
        home: Path,
        site_file: SiteFile,
        *,
        between: Between = no_pause,
        telemetry: Telemetry | None = None,
        planner: Planner | None = None,
    ) -> None:
        _check_file(site_file)
        self._home = Home(home)
        self._file = site_file
        self._between = between
        self._telemetry = telemetry or Telemetry()
        self._data = {alias: read_data_set(alias, source) for alias, source in site_file.data.items()}
        self._model: _Model | None = None
        self._materials: tuple[str, Materials] | None = None
        self._site = Site(
            name=site_file.site.name,
            host=self,
            home=self._home,
            peers=self._home.peers,
            between=self._pass,
            planner=planner
            or PlanningProcess(
                seconds=site_file.limits.planning_seconds,
                mib=site_file.limits.planning_mib,
                kept=home / PLANS_FILE,
            ),
        )
        self._statistics = StatisticsSite(own=self._site.own, host=self, peers=self._home.peers)

    @property
    def examples(self) -> dict[str, int]:
        """How many rows each data set has."""
        return {alias: len(data) for alias, data in self._data.items()}

    def check_ledger(self) -> None:
        """Open the ledger and verify it whole; begin it if the home is new. Raises LedgerError."""
        ledger = self._home.open_ledger(self._file.site.name, self._home.identity())
        for alias, data in self._data.items():
            number = ledger.find(data.members)
            spent = 0.0 if number is None else ledger.epsilon(number)
            self._telemetry.has_spent(alias, spent=spent, budget=ledger.budget.epsilon)
        ledger.close()

    def answer(self, opened: Opened) -> bytes:
        """Answer the Request in an envelope with one serialized Reply; raises StoppedError alone."""
        with without_subnormals():
            reply = answer_or_refuse(self._file.site.name, lambda: self._counted(opened))
            self._tell_all_spent()
        return reply

    def _counted(self, opened: Opened) -> pb.Reply:
        with self._telemetry.counting_refusals():
            request = pb.Request.FromString(opened.payload)
            answers = self._statistics if asks_statistics(request, self._home) else self._site
            return answers.reply(request, header=opened.header)

    def _pass(self, step: int, steps: int) -> None:
        """Between steps. Before the first one the round is charged for."""
        self._between(step, steps)
        if step == 0:
            self._tell_all_spent()

    def _tell_all_spent(self) -> None:
        """Tell the custodian's monitoring what the data have left."""
        try:
            for alias, spent, budget in self._site.own.spent():
                self._telemetry.has_spent(alias, spent=spent, budget=budget)
        except (ConfideError, OSError) as error:
            log.warning("what is spent cannot be told: %s", error)

    def find_data(self, manifest: Manifest) -> DataSet:
        """The data that a manifest names. Raises ProtocolError for a model or data that are not here."""
        job = manifest.job
        section_of(job)
        local_job(job, self._file.models)
        if job.data.mix and job.data.joint_alias in self._data:
            raise ProtocolError(
                f"data.mix: this site has other data called {job.data.joint_alias!r}, as the mix would be"
            )
        sets = [self._find_set(manifest, alias) for alias in job.data.aliases]
        return sets[0] if len(sets) == 1 else mixed(sets)

    def _find_set(self, manifest: Manifest, alias: str) -> DataSet:
        data, named = self._data.get(alias), f"data.alias={alias!r}"
        if alias != manifest.job.data.alias:
            named = f"data.mix: alias={alias!r}"
        if data is None:
            raise ProtocolError(f"{named}: this site knows no data by that name")
        task = find_task(manifest.job.task)
        if not data.serves(task):
            raise ProtocolError(f"{named}: these data are not for task={manifest.job.task!r} here")
        if task.labelled and not data.labels:
            raise ProtocolError(f"{named}: these data have no labels here; task={manifest.job.task!r}")
        check_labels(manifest, data.labels_for(task))
        of_groups = task_of(manifest.job)
        if not isinstance(of_groups, GroupTask):
            return data
        grouped = data.in_groups(of_groups)
        if grouped is None:
            raise ProtocolError(
                f'{named}: this site names no column of groups for these data, which privacy.unit="group" '
                "needs"
            )
        return grouped

    def open_rows(self, manifest: Manifest) -> CountableRows:
        """The rows that a manifest of statistics names, and what its task reads them with: no model."""
        job, found = manifest.job, self.find_data(manifest)
        task = find_task(job.task)
        try:
            reader = task.open_reader(local_job(job, self._file.models).model.source, section_of(job))
        except ModelError as error:
            raise _cannot_load(manifest, error) from error
        return CountableRows(rows=found.rows, reader=reader, labels=found.labels_for(task))

    def load_materials(self, manifest: Manifest, data: LocalData, start: bytes | None) -> Materials:
        """The model that a manifest names, in the place of another, and the data as it reads them.

        With ``start``, a model that compares with another run's is another: what is kept of examples is
        computed with it, too.
        """
        alias, key = data.alias, _model_key(manifest, site=self._file.site.name)
        known = self._model is not None and self._model.key == key
        if known and self._materials is not None and self._materials[0] == alias:
            return self._materials[1]
        self._materials = None
        model = self._model if known and self._model is not None else self._load(manifest, key, start)
        found = self.find_data(manifest)
        labels = found.labels_for(find_task(manifest.job.task))
        examples = found.examples(model.trainer.adapted, labels=labels)
        materials = Materials(
            examples=examples,
            digests=found.digests,
            labels=labels,
            trainer=model.trainer,
            activations=Activations(model.prefix, examples),
            parts=found.parts,
        )
        model.trainer.devices.ready(examples)
        self._materials = alias, materials
        return materials

    def _load(self, manifest: Manifest, key: bytes, start: bytes | None) -> _Model:
        """Load the model that a manifest names, in the place of the one that is here.

        What goes wrong is the custodian's to know: a coordinator learns that this model cannot be had.
        """
        self.close()
        gc.collect()  # a model's modules point at one another
        job, labels = manifest.job, manifest.labels
        device = choose_device(self._device_of(job))
        try:
            local = local_job(job, self._file.models)
            base = load_base_model(local, labels=labels, device=device)
        except ModelError as error:
            raise _cannot_load(manifest, error) from error
        # Before its tokenizer sees a text: one that was made to ask of texts is another model.
        check_model(manifest, base.digest)
        # By the job's word for its source, and not by the place: what it says may reach the coordinator.
        adapted = AdaptedModel(base, job=job_at(job, self._file.site.name), device=device)
        begin_with_sent(adapted, start)
        log.info("run %s: loaded its model on %s", manifest.run, device)
        gradients, devices = choose_gradients(adapted), None
        choose_threads(gradients, job)
        others = self._file.device.name[1:]
        if others and isinstance(adapted.task, WritingTask):
            log.info("run %s: %s writes on the first device alone", manifest.run, job.task)
        elif others:
            recipe = Recipe(
                job=job,
                local=local,
                labels=labels,
                site=self._file.site.name,
                start=start,
            )
            devices = SeveralDevices(recipe, others, adapted=adapted)
        trainer = Trainer(gradients, devices)
        self._model = _Model(key=key, trainer=trainer, prefix=FrozenPrefix(adapted))
        return self._model

    def _device_of(self, job: Job) -> DeviceSection:
        """This process's own device: what the site says of it, and the job where it says nothing."""
        own, told = self._file.device, dict[str, object]()
        if own.name:
            told["name"] = own.name[0]
        if own.offload is not None:
            told["offload"] = own.offload
        return _within_machine(job).device.model_copy(update=told)

    def close(self) -> None:
        """Forget the model that is here, and free the devices that it is on."""
        if self._model is not None:
            self._model.trainer.devices.end()
        self._model = None


def _check_file(site_file: SiteFile) -> None:
    if site_file.rules.coordinator is None:
        raise PolicyFileError(
            "rules.coordinator: missing; expected the coordinator's public key, which came with the site's "
            "files: without it anyone could ask"
        )
    if not site_file.data:
        raise PolicyFileError("data: expected one section [data.ALIAS] or more, got none")
    check_models(site_file.models)
    try:
        for name in site_file.device.name:
            present_device(name)
    except UserError as error:
        raise PolicyFileError(str(error)) from error


def _cannot_load(manifest: Manifest, error: ModelError) -> ModelError:
    """What a coordinator hears of a model that cannot be had; why is the custodian's to know."""
    log.warning("run %s: %s", manifest.run, error)
    return ModelError(f"{named_models(manifest.job)} cannot be loaded at this site; its own log says why")


def _model_key(manifest: Manifest, *, site: str) -> bytes:
    """What two manifests have in common that can be answered with one model in memory."""
    return canonical_json(
        {
            "spec": ModelSpec.of(job_at(manifest.job, site)).as_table(),
            "device": manifest.job.device.model_dump(mode="json"),
            "labels": manifest.labels,
            "digest": manifest.model_digest,
            "start": manifest.start_digest if compares_with_start(manifest.job) else "",
        }
    )


def _within_machine(job: Job) -> Job:
    """A job that asks for no more threads than there are processors."""
    threads = job.device.threads
    if threads is None:
        return job
    here = min(threads, len(os.sched_getaffinity(0)))
    return job.model_copy(update={"device": job.device.model_copy(update={"threads": here})})
