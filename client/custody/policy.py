"""The policy: what a site's custodian allows, in ``site.toml``, and which rule a manifest breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy.accounting.plan import Plan
from privacy.errors import PolicyError, PolicyFileError, SignatureError
from privacy.identity import verify
from protocol.job.job_file import explain
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.job.statistics_section import StatisticsSection
from protocol.plain_text import quoted
from protocol.sums.sum_kinds import sum_kind
from protocol.toml_file import parse_toml, read_toml, toml_text
from tasks.registry import task_names

FILE = "site.toml"
# What stands beside the policy in the file of a site that an agent answers for: see site_file.py.
OTHER_SECTIONS = frozenset({"site", "agent", "relay", "data", "models", "limits", "device"})
Checked = TypeVar("Checked", bound=BaseModel)
_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _installed(task: str) -> str:
    if task not in task_names():
        raise ValueError(f"tasks: expected some of {', '.join(task_names())}, got {quoted(task)}")
    return task


class Section(BaseModel):
    """A table of ``site.toml``: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BudgetSection(Section):
    """How much may be lost about one example of a data set: over its life, and in one run.

    A run has its own δ; half of ``delta`` is for those of all runs together, and half for the filter by
    order. ``order`` fixes the filter's α when the ledger begins; unset, it is chosen.
    """

    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon_per_run: Annotated[float, Field(gt=0, le=1000)] | None = None
    order: Annotated[int, Field(ge=2, le=256)] | None = None

    @model_validator(mode="after")
    def _within(self) -> BudgetSection:
        if self.epsilon_per_run is not None and self.epsilon_per_run > self.epsilon:
            raise ValueError(
                f"epsilon_per_run={self.epsilon_per_run:g} is more than epsilon={self.epsilon:g}"
            )
        return self


class RulesSection(Section):
    """What a manifest must be like. Lists that are unset allow anything."""

    mechanisms: list[Literal["gaussian", "laplace", "skellam", "none"]] = ["gaussian", "laplace", "skellam"]
    least_cohort: Annotated[int, Field(ge=1)] = 1
    units: list[Literal["example", "group", "site"]] | None = None
    central_noise: Literal["refused", "allowed"] = "refused"
    correlated_noise: Literal["refused", "allowed"] = "refused"
    secure_aggregation: Literal["required", "encrypted", "optional"] = "optional"
    colluding_sites: Annotated[int, Field(ge=0)] = 0
    weights: Literal["refused", "allowed"] = "refused"
    models: list[_Hex32] | None = None
    tasks: list[Annotated[str, AfterValidator(_installed)]] | None = None
    coordinator: _Hex32 | None = None
    metrics_epsilon: Annotated[float, Field(ge=0, le=1000)] = 0.0
    statistics_epsilon: Annotated[float, Field(ge=0, le=1000)] = 0.0
    approval: Literal["automatic", "manual"] = "automatic"
    # Seconds that the local steps of one round may take.
    longest_round: Annotated[float, Field(ge=1, le=30 * 86400)] = 6 * 3600.0


class Policy(Section):
    """A site's policy, whole."""

    budget: BudgetSection
    rules: RulesSection = RulesSection()

    def check(self, manifest: Manifest, signature: bytes) -> None:
        """Raises PolicyError naming the first rule that a manifest breaks, approval apart."""
        job, rules = manifest.job, self.rules
        if rules.coordinator is not None:
            self._check_signed(rules.coordinator, manifest, signature)
        if job.statistics is not None:
            self._check_statistics(manifest, job.statistics)
            return
        _allow("mechanisms", job.privacy.mechanism, rules.mechanisms)
        _allow("units", job.privacy.unit, rules.units)
        if job.privacy.noise == "central" and rules.central_noise == "refused":
            raise PolicyError(
                "the coordinator would add the noise, and so know the sum without it: expected "
                'privacy.noise="distributed"',
                rule="rules.central_noise",
            )
        if job.privacy.correlated and rules.correlated_noise == "refused":
            raise PolicyError(
                "the seed of all the run's noise would lie in the site's home while it lasts: expected "
                'privacy.noise_correlation="none"',
                rule="rules.correlated_noise",
            )
        if job.privacy.protects:
            most = self.budget.epsilon_per_run or self.budget.epsilon
            asked = job.privacy.epsilon + job.metrics.epsilon
            if asked > most:
                raise PolicyError(
                    f"expected epsilon={most:g} at most for training and metrics, got {asked:g}",
                    rule="budget.epsilon_per_run",
                )
        self._check_cohort(manifest)
        self._check_aggregation(manifest)
        _allow("models", manifest.model_digest, rules.models)
        _allow("tasks", job.task, rules.tasks)
        if job.metrics.epsilon > rules.metrics_epsilon:
            raise PolicyError(
                f"expected metrics.epsilon={rules.metrics_epsilon:g} at most, got {job.metrics.epsilon:g}",
                rule="rules.metrics_epsilon",
            )

    def _check_statistics(self, manifest: Manifest, asked: StatisticsSection) -> None:
        """What statistics must be like, whose noise is Gaussian and whose unit an example."""
        job, rules = manifest.job, self.rules
        _allow("mechanisms", "gaussian", rules.mechanisms)
        _allow("units", "example", rules.units)
        if asked.epsilon > rules.statistics_epsilon:
            raise PolicyError(
                f"expected statistics.epsilon={rules.statistics_epsilon:g} at most, got {asked.epsilon:g}",
                rule="rules.statistics_epsilon",
            )
        most = self.budget.epsilon_per_run or self.budget.epsilon
        if asked.epsilon > most:
            raise PolicyError(
                f"expected epsilon={most:g} at most for statistics, got {asked.epsilon:g}",
                rule="budget.epsilon_per_run",
            )
        self._check_cohort(manifest)
        self._check_aggregation(manifest)
        _allow("tasks", job.task, rules.tasks)

    def _check_cohort(self, manifest: Manifest) -> None:
        if manifest.min_survivors < self.rules.least_cohort:
            raise PolicyError(
                f"expected at least {self.rules.least_cohort} sites in each round, got "
                f"{manifest.min_survivors}",
                rule="rules.least_cohort",
            )
        if manifest.job.federation.weights is not None and self.rules.weights == "refused":
            raise PolicyError(
                "the job tells all sites how much each one counts, as by its examples: expected no "
                "federation.weights",
                rule="rules.weights",
            )

    def check_cost(self, plan: Plan) -> None:
        """Raises PolicyError if a run that hides whole sites costs each example more than a run may.

        Such a run's own ε is a site's, and an example's is more.
        """
        most = self.budget.epsilon_per_run
        if most is None or not (plan.hides_sites and plan.protects):
            return
        costs = plan.as_charged().epsilon
        if costs > most:
            raise PolicyError(
                f"expected epsilon={most:g} at most for each example, and a run that hides this site at "
                f"epsilon={plan.epsilon:.3g} costs each {costs:.3g}",
                rule="budget.epsilon_per_run",
            )

    def _check_aggregation(self, manifest: Manifest) -> None:
        aggregation, rules = manifest.job.aggregation, self.rules
        if rules.secure_aggregation != "optional":
            _check_none_outweighs(manifest)
        if rules.secure_aggregation != "optional" and not aggregation.hidden:
            raise PolicyError(
                "the coordinator would read this site's updates one by one: expected secure "
                f'aggregation, got aggregation.kind="{aggregation.kind}"',
                rule="rules.secure_aggregation",
            )
        if rules.secure_aggregation == "required" and not aggregation.threshold_protects:
            raise PolicyError(
                f'expected aggregation.kind="masks", got "{aggregation.kind}"',
                rule="rules.secure_aggregation",
            )
        if rules.secure_aggregation == "required" and not aggregation.confirm:
            raise PolicyError(
                "the sites would believe the coordinator about who has answered: expected "
                "aggregation.confirm=true, got false",
                rule="rules.secure_aggregation",
            )
        refusal = sum_kind(manifest.job).refusal(manifest, colluding=rules.colluding_sites)
        if refusal is not None:
            raise PolicyError(refusal, rule="rules.colluding_sites")

    @staticmethod
    def _check_signed(coordinator: str, manifest: Manifest, signature: bytes) -> None:
        try:
            _verify_manifest(coordinator, manifest.content, signature)
        except SignatureError as error:
            raise PolicyError(
                f"the coordinator {coordinator[:16]}… did not sign this manifest", rule="rules.coordinator"
            ) from error


def _check_none_outweighs(manifest: Manifest) -> None:
    """Raises PolicyError if a sum may hold one site's update and next to nothing else.

    Who is in a round besides the heaviest site, a coordinator has a hand in: so the lightest are counted.
    """
    weights = manifest.job.federation.weights
    if weights is None:
        return
    *lighter, heaviest = sorted(weights.values())
    others = sum(lighter[: manifest.min_survivors - 1])
    if heaviest > others:
        raise PolicyError(
            "a sum would be little but the heaviest site's update: expected no weight above those of "
            f"{manifest.min_survivors - 1} other sites together, the lightest: got {heaviest}, {others}",
            rule="rules.secure_aggregation",
        )


# A run's requests are all about one manifest, and simulated sites are shown the same one.
@lru_cache(maxsize=8)
def _verify_manifest(coordinator: str, content: bytes, signature: bytes) -> None:
    """Raises SignatureError unless this coordinator signed it."""
    verify(bytes.fromhex(coordinator), MANIFEST_PURPOSE, content, signature)


def _allow(rule: str, asked: str, allowed: list[Any] | None) -> None:
    if allowed is not None and asked not in allowed:
        options = ", ".join(allowed) or "nothing"
        raise PolicyError(f"expected one of {options}, got {asked}", rule=f"rules.{rule}")


def read_policy(path: Path) -> Policy:
    """Read the policy in ``site.toml``. Raises PolicyFileError with one line per wrong key.

    Each request asks what the file says now; a text that was read before is not parsed again.
    """
    with _reading(path, "policy"):
        return _policy_of(toml_text(path))


@lru_cache(maxsize=8)
def _policy_of(text: str) -> Policy:
    table = parse_toml(text)
    return checked(Policy, {name: section for name, section in table.items() if name not in OTHER_SECTIONS})


def read_own_file(path: Path, *, what: str = "policy") -> dict[str, Any]:
    """A file of the custodian's as tables; ``what`` it holds is for errors. Raises PolicyFileError."""
    with _reading(path, what):
        return read_toml(path)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Raises PolicyFileError for a file that cannot be read, or is no TOML."""
    try:
        yield
    except FileNotFoundError as error:
        raise PolicyFileError(f"no {what} at {path}") from error
    except (OSError, ValueError) as error:
        raise PolicyFileError(f"cannot read the {what} {path}: {error}") from error


def checked(model: type[Checked], table: dict[str, Any]) -> Checked:
    """Tables as what they must be. Raises PolicyFileError with one line per wrong key."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise PolicyFileError(explain(error, shown_by="that docs/policy.md lists", model=model)) from None


def policy_toml(policy: Policy) -> str:
    """A policy as TOML, every key filled in but those that are unset."""
    return tomli_w.dumps(policy.model_dump(mode="json", exclude_none=True))
