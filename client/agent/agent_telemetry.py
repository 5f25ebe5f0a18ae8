"""What an agent tells its custodian's monitoring: how it fares, and what its data have left.

No label holds what a coordinator or the data could choose: runs, rounds and texts are in none of them. What
is left of ε is the custodian's to know, so nothing of this is told over the relay's socket.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from client.agent.agent_status import Status
from client.training.cancellation import StoppedError
from privacy.errors import PolicyError
from protocol.messages.message_kinds import KINDS

# Steps of a sum take no time to speak of: their kinds are not counted one by one.
_STAGES = {kind.reply: kind.request for kind in KINDS if not kind.of_sum}
_KINDS = (*_STAGES, "refused")
_BUCKETS = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)
_MOST_LABELS = 50  # far more than there are rules and kinds of errors


class Telemetry:
    """The metrics of one agent, in a ``registry`` of their own. Any thread may report."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._answers = Counter(
            "confide_agent_answers", "Requests answered, by kind of reply.", ["kind"], registry=registry
        )
        self._repeated = Counter(
            "confide_agent_repeated_answers", "Replies that were kept, and given again.", registry=registry
        )
        self._refusals = Counter(
            "confide_agent_refusals",
            "Requests refused, by the rule of site.toml or the kind of error.",
            ["rule"],
            registry=registry,
        )
        self._turned_away = Counter(
            "confide_agent_turned_away",
            "Envelopes without a signed reply, by the kind of error.",
            ["why"],
            registry=registry,
        )
        self._seconds = Histogram(
            "confide_agent_stage_seconds",
            "Time that requests took, by stage.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._bytes = Counter(
            "confide_agent_bytes", "Envelopes that came in and went out.", ["direction"], registry=registry
        )
        self._steps = Counter("confide_agent_steps", "Training steps taken.", registry=registry)
        self._queued = Gauge("confide_agent_queue_length", "Envelopes that wait.", registry=registry)
        self._working = Gauge(
            "confide_agent_working", "1 while a request is worked on, else 0.", registry=registry
        )
        self._spent = Gauge(
            "confide_agent_epsilon_spent",
            "ε that a data set's example has lost, the one that has lost most; +Inf without a bound.",
            ["data"],
            registry=registry,
        )
        self._left = Gauge(
            "confide_agent_epsilon_left",
            "The budget of a data set less what is spent; 0 without a bound.",
            ["data"],
            registry=registry,
        )
        started = Gauge(
            "confide_agent_start_time_seconds", "When it started, since 1970.", registry=registry
        )
        started.set(time.time())
        ProcessCollector(registry=registry)
        registry.register(_GpuMemory())
        self._begin_at_zero()

    def watch(self, status: Callable[[], Status]) -> None:
        """Ask for the queue's length, and whether something is worked on, whenever metrics are read."""
        self._queued.set_function(lambda: status().queued)
        self._working.set_function(lambda: status().state == "working")

    def received(self, size: int) -> None:
        """An envelope came in: bytes."""
        self._bytes.labels("in").inc(size)

    @contextmanager
    def sealing(self) -> Iterator[None]:
        """Within this block a reply is sealed."""
        with self._seconds.labels("seal").time():
            yield

    def sent(self, size: int) -> None:
        """A sealed reply leaves: bytes."""
        self._bytes.labels("out").inc(size)

    def turned_away(self, error: BaseException) -> None:
        """An envelope got no signed reply."""
        self._turned_away.labels(type(error).__name__).inc()

    def waited(self, seconds: float) -> None:
        """A request left the queue."""
        self._seconds.labels("queue").observe(seconds)

    def answered(self, kind: str | None, *, seconds: float, repeated: bool) -> None:
        """A reply was made, or one that was kept was found."""
        if repeated:
            self._repeated.inc()
        elif kind in _KINDS:
            self._answers.labels(kind).inc()
            if kind in _STAGES:
                self._seconds.labels(_STAGES[kind]).observe(seconds)

    def stepped(self, steps: int) -> None:
        """So many more steps were taken."""
        self._steps.inc(max(steps, 0))

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count the error that leaves this block as a refusal; a site that stops refuses nothing."""
        try:
            yield
        except StoppedError:
            raise
        except Exception as error:
            rule = error.rule if isinstance(error, PolicyError) else type(error).__name__
            known = len(next(iter(self._refusals.collect())).samples) < 2 * _MOST_LABELS
            self._refusals.labels(rule if known else "other").inc()
            raise

    def has_spent(self, alias: str, *, spent: float, budget: float) -> None:
        """What the ledger says of a data set, by the custodian's own name for it."""
        self._spent.labels(alias).set(spent)
        self._left.labels(alias).set(max(budget - spent, 0.0) if math.isfinite(spent) else 0.0)

    def certificate(self, path: Path) -> None:
        """The agent shows a certificate, PEM; over a socket it shows none."""
        until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        name = "confide_agent_certificate_expiry_timestamp_seconds"
        gauge = Gauge(name, "When the agent's certificate ends, since 1970.", registry=self.registry)
        gauge.set(until.timestamp())

    def _begin_at_zero(self) -> None:
        """What has not happened yet is 0 and not missing, so that a rise from it is seen."""
        for kind in _KINDS:
            self._answers.labels(kind)
        for stage in ("queue", *_STAGES.values(), "seal"):
            self._seconds.labels(stage)
        for direction in ("in", "out"):
            self._bytes.labels(direction)
        for why in ("FullError", "ProtocolError", "SignatureError"):
            self._turned_away.labels(why)


class _GpuMemory(Collector):
    """Memory on each GPU, looked up when asked for; nothing where torch uses none."""

    def collect(self) -> Iterable[Any]:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return
        used = GaugeMetricFamily(
            "confide_agent_gpu_memory_bytes", "Memory on a GPU, by use.", labels=["gpu", "use"]
        )
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            used.add_metric([str(number), "tensors"], torch.cuda.memory_allocated(number))
            used.add_metric([str(number), "free"], free)
            used.add_metric([str(number), "total"], total)
        yield used
