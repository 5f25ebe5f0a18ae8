"""``site.toml`` of a site that an agent answers for: who it is, its data, and its policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from client.custody.policy import FILE, Policy, Section, checked, read_own_file
from privacy.errors import JobError, PolicyFileError
from protocol.job.data_section import SourceKeys
from protocol.job.job import DeviceName
from protocol.messages.site_name import SiteName
from protocol.plain_text import Place, Word
from tasks.registry import DEFAULT_TASK, columns_of, gate_of
from tasks.task import Gate, TaskKeys

PACKAGE, HUB = "package:", "hub:"
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def _address(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"expected host:port, got {value!r}")
    return value


Address = Annotated[str, AfterValidator(_address)]


class SiteSection(Section):
    """Which site this is, and where its coordinator is reached."""

    name: SiteName
    coordinator: Address


class AgentSection(Section):
    """How the relay reaches the agent: over a unix socket, or over TLS with a certificate on both sides.

    ``group`` owns the socket beside the agent's user. ``queue`` is how many envelopes may wait.
    ``metrics`` is where the agent tells how it fares.
    """

    socket: Annotated[str, Field(min_length=1)] | None = None
    listen: Address | None = None
    group: Annotated[str, Field(min_length=1)] | None = None
    metrics: Address | None = None
    queue: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _one_way(self) -> AgentSection:
        if self.socket is not None and self.listen is not None:
            raise ValueError("socket: expected either agent.socket or agent.listen, got both")
        if self.group is not None and self.listen is not None:
            raise ValueError("group: expected none with agent.listen: it is for a socket")
        return self


class RelaySection(Section):
    """What brings the coordinator's messages to the agent.

    ``kind`` is Confide's own program, or Flower's SuperNode, which starts a process for every message.
    ``user`` runs it when it is started as root. ``agent`` is where it finds an agent on another machine,
    if not under ``agent.listen``. ``port`` is for a SuperNode's own processes, on loopback; any free one if
    unset.
    """

    kind: Literal["resident", "flower"] = "resident"
    user: Annotated[str, Field(min_length=1)] | None = None
    agent: Address | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class LimitsSection(Section):
    """What planning one run may take: ``planning_seconds``, and ``planning_mib`` of memory.

    The process that plans takes 400 MiB of address space before it begins.
    """

    planning_seconds: Annotated[float, Field(ge=5, le=3600)] = 30.0
    planning_mib: Annotated[int, Field(ge=640, le=65536)] = 1024


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class OwnDevices(Section):
    """Where this site trains, whatever a job says: ``name`` is one device, or several that share each step.

    The first is the agent's own. Unset, it is the device that the job names. ``offload`` says whether
    frozen layers' weights wait in main memory while another layer computes; unset, the job says it.
    """

    name: Annotated[list[DeviceName], BeforeValidator(_as_list), Field(max_length=64)] = Field(
        default_factory=list
    )
    offload: bool | None = None

    @model_validator(mode="after")
    def _apart(self) -> OwnDevices:
        names = self.name
        # The processor may be shared: so that it can be tried where there is no GPU.
        gpus = ["cuda:0" if name == "cuda" else name for name in names if name != "cpu"]
        if len(names) > 1 and ("auto" in names or len(set(gpus)) < len(gpus)):
            raise ValueError(
                'name: expected one device, or several by their names, each once, as ["cuda:0", "cuda:1"], '
                f"got {', '.join(names)}"
            )
        return self


class DataSource(SourceKeys):
    """One data set, by the name that jobs know it by, with the keys that say how a task reads it.

    It serves every task that reads such rows, not only ``task``. ``group`` is the column that
    says whose a row is: a run for groups needs it, and the ledger knows the data by groups and rows both.
    ``gate`` has rules on rows.
    """

    model_config = ConfigDict(extra="allow")

    task: Word = DEFAULT_TASK
    group: Word | None = None
    gate: dict[str, Any] = Field(default_factory=dict)

    @property
    def rules(self) -> Gate | None:
        """What a row must be to be let into training. Raises JobError for wrong keys."""
        return gate_of(self.task, self.gate, under="gate")

    @property
    def columns(self) -> TaskKeys:
        """The task's keys. Raises JobError for wrong ones, and for a task that is not installed here."""
        return columns_of(self.task, self.model_extra or {}, under="data")


class SiteFile(Policy):
    """``site.toml``, whole. Paths in it are absolute once it is read."""

    site: SiteSection
    agent: AgentSection = AgentSection()
    relay: RelaySection = RelaySection()
    limits: LimitsSection = LimitsSection()
    device: OwnDevices = OwnDevices()
    data: dict[Word, DataSource] = Field(default_factory=dict)
    models: dict[Place, Place] = Field(default_factory=dict)

    @property
    def agent_address(self) -> str:
        """Where the relay finds the agent: ``unix:`` and a path, or ``host:port``."""
        return self.relay.agent or self.agent.listen or f"unix:{self.agent.socket}"


def find_site_file(place: Path) -> Path:
    """The ``site.toml`` that a person means by naming it, or the home that it is in."""
    return place / FILE if place.is_dir() else place


def find_home(place: Path) -> Path:
    """The home that a person means by naming it, or the ``site.toml`` in it."""
    return place.parent if place.is_file() else place


def read_site_file(path: Path) -> SiteFile:
    """Read ``site.toml``: what is relative in it is beside it.

    Raises PolicyFileError with one line per wrong key.
    """
    found = checked(SiteFile, read_own_file(path))
    _check_columns(found)
    home = path.resolve().parent
    agent = found.agent
    if agent.listen is None:
        agent = agent.model_copy(update={"socket": str(home / (agent.socket or "agent.sock"))})
    if any(letter in str(home) for letter in "\"'\\\n"):
        raise PolicyFileError(f"the home {str(home)!r}: expected a path without quotes and backslashes")
    return found.model_copy(
        update={
            "agent": agent,
            "data": {
                alias: data.model_copy(
                    update={"source": _beside(home, data.source), "gate": _gate_beside(home, data.gate)}
                )
                for alias, data in found.data.items()
            },
            "models": {name: _beside(home, place) for name, place in found.models.items()},
        }
    )


def _check_columns(found: SiteFile) -> None:
    for alias, data in found.data.items():
        try:
            columns_of(data.task, data.model_extra or {}, under=f"data.{alias}")
            gate_of(data.task, data.gate, under=f"data.{alias}.gate")
        except JobError as error:
            raise PolicyFileError(str(error)) from None


def _gate_beside(home: Path, gate: dict[str, Any]) -> dict[str, Any]:
    """The rules, of which one names a model."""
    density = gate.get("density")
    if density is None:
        return gate
    return gate | {"density": density | {"model": _beside(home, density["model"])}}


def _beside(home: Path, source: str) -> str:
    return source if source.startswith((PACKAGE, HUB)) else str(home / source)
