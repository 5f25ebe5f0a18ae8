"""What a site finds for a manifest: data by their name, and the model that it is to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from protocol.job.manifest import Manifest

if TYPE_CHECKING:
    from client.training.training import Trainer
    from tasks.data.examples import Examples
    from tasks.model.frozen_prefix import Activations


class LocalData(Protocol):
    """Data that a site has: their name there, and what a ledger knows them by, bytes[32] each."""

    @property
    def alias(self) -> str: ...

    @property
    def members(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a run is computed with at a site; ``labels`` are those that it declares, if the task has any.

    ``digests`` are bytes[32] an example, in the examples' order. Of a mix, ``parts`` says how many examples
    are of each source, which lie one source after another; of a job without one it is empty.
    """

    examples: Examples
    digests: Sequence[bytes]
    labels: tuple[str, ...]
    trainer: Trainer
    activations: Activations
    parts: tuple[int, ...] = ()


class Host(Protocol):
    """Where data and models come from: files that a custodian lists, or a simulation's memory."""

    def find_data(self, manifest: Manifest) -> LocalData:
        """The data that a manifest names. Raises ProtocolError if the site has none that fit."""
        ...

    def load_materials(self, manifest: Manifest, data: LocalData, start: bytes | None) -> Materials:
        """The model that an admitted manifest names, and the data as examples for it.

        ``start`` is what ``first_adapter`` gives of the run: the model compares what it is with that. Asked
        again for the same, it may give what it holds. Raises DataError, ModelError, ProtocolError.
        """
        ...
