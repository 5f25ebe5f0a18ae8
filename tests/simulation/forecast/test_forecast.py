"""The forecast: its arithmetic, and that it foretells what runs then do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.training.training import learning_rate
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from protocol.job.job import Job, TrainingSection
from protocol.job.job_file import job_toml
from simulation.forecast.forecast import Forecast, forecast
from simulation.forecast.noise_level import HIGH, HOPELESS, Setup, noise_level, steps_in_effect
from simulation.forecast.suggestions import _fewer_layers, _lower_rank, suggest
from simulation.forecast.traffic import traffic
from simulation.simulate import simulate
from tasks.registry import read_job
from tests import tiny

HOPELESS_JOB: dict[str, dict[str, Any]] = {"privacy": {"epsilon": 0.01}}


@pytest.fixture(scope="module")
def found(tiny_folder: Path) -> Forecast:
    return forecast(tiny.job(tiny_folder))


def plan(name: str = "gaussian", multiplier: float = 1.5, clipping_norm: float = 0.7) -> SampledPlan:
    mechanism = Mechanism(name=name, multiplier=multiplier)
    return SampledPlan(
        mechanism=mechanism, clipping_norm=clipping_norm, sampling_rate=0.1, steps=6, delta=1e-5
    )


def training(**changes: Any) -> TrainingSection:
    return TrainingSection(**{"rounds": 3, "local_steps": 2, "batch_size": 64, **changes})


@given(sites=st.integers(1, 50), parameters=st.integers(1, 10**7), multiplier=st.floats(0.1, 100))
def test_noise_falls_with_the_root_of_the_sites(sites: int, parameters: int, multiplier: float) -> None:
    one, many = (
        noise_level([plan(multiplier=multiplier)] * k, training=training(), parameters=parameters)
        for k in (1, sites)
    )
    assert many.site_step == one.site_step == one.step
    assert many.step == pytest.approx(one.step / math.sqrt(sites))
    assert many.run == pytest.approx(one.run / math.sqrt(sites))


@given(factor=st.integers(2, 50))
def test_noise_falls_with_the_batch_and_grows_with_the_root_of_the_parameters(factor: int) -> None:
    level = noise_level([plan()], training=training(), parameters=100)
    larger = noise_level([plan()], training=training(batch_size=64 * factor), parameters=100)
    wider = noise_level([plan()], training=training(), parameters=100 * factor)
    assert larger.run == pytest.approx(level.run / factor)
    assert wider.run == pytest.approx(level.run * math.sqrt(factor))


@given(scale=st.floats(0.01, 100))
def test_the_clipping_norm_scales_noise_and_signal_alike(scale: float) -> None:
    level = noise_level([plan(clipping_norm=scale)], training=training(), parameters=100)
    assert level.run == pytest.approx(
        noise_level([plan(clipping_norm=1.0)], training=training(), parameters=100).run
    )


def measured(name: str, multiplier: float, section: TrainingSection, *, sites: int, size: int) -> float:
    """Noise over signal of a run made step by step, where every clipped gradient is the same."""
    # The signal: what clipping leaves of an example whose coordinates are like normal numbers.
    example = np.random.default_rng(0).standard_normal(size)
    clipped = 0.7 * example / np.linalg.norm(example, 1 if name == "laplace" else 2)
    noise, signal = np.zeros(size), np.zeros(size)
    mechanism = Mechanism(name=name, multiplier=multiplier)
    for round_number in range(1, section.rounds + 1):
        for step in range(section.local_steps):
            rate = learning_rate(section, round_number, step) / section.batch_size
            signal += rate * section.batch_size * clipped
            for site in range(sites):
                source = keyed_source(0, site, round_number, step)
                noise += rate * mechanism.noise(size, steps=0.7 * 2.0**40, source=source) / 2.0**40 / sites
    return float(np.linalg.norm(noise) / np.linalg.norm(signal))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("decay", ["none", "linear"])
def test_the_ratio_is_that_of_noise_really_drawn(name: str, decay: str) -> None:
    """The norm of 40,000 numbers varies by 1/√(2 · 40,000) = 0.35 %, for Laplace noise by up to 0.6 %."""
    section, size, sites = training(decay=decay), 40_000, 3
    level = noise_level([plan(name)] * sites, training=section, parameters=size)
    assert measured(name, 1.5, section, sites=sites, size=size) == pytest.approx(level.run, rel=0.03)
    for wrong in (1.0, 2.25):  # two thirds and three halves of the noise
        off = measured(name, wrong, section, sites=sites, size=size)
        assert off != pytest.approx(level.run, rel=0.03)


@given(rounds=st.integers(1, 30), local_steps=st.integers(1, 5), decay=st.sampled_from(["none", "linear"]))
def test_steps_in_effect_are_those_of_the_sites_learning_rates(
    rounds: int, local_steps: int, decay: str
) -> None:
    section = training(rounds=rounds, local_steps=local_steps, decay=decay, learning_rate=3.0)
    rates = [
        learning_rate(section, number, step)
        for number in range(1, rounds + 1)
        for step in range(local_steps)
    ]
    assert steps_in_effect(section) == pytest.approx(sum(rates) ** 2 / sum(r * r for r in rates))


def test_sites_of_several_sizes_count_each_with_its_own_noise() -> None:
    plans = [plan(multiplier=1.0), plan(multiplier=3.0)]
    both = noise_level(plans, training=training(), parameters=100)
    each = [noise_level([p], training=training(), parameters=100).step for p in plans]
    assert both.step == pytest.approx(math.hypot(*each) / 2)
    assert both.site_step == pytest.approx(max(each))
    with pytest.raises(PlanError, match="at least one site"):
        noise_level([], training=training(), parameters=100)


def test_a_run_does_what_was_foretold(tiny_folder: Path, tmp_path: Path, found: Forecast) -> None:
    """Numbers in a receipt, and the run's name there, vary by less than 64 characters in all."""
    run = simulate(tiny.job(tiny_folder), runs=tmp_path)
    sites, last = {site.name: site for site in found.sites}, run.rounds[-1]
    for record in run.rounds:
        assert abs(record.bytes_up - 3 * found.traffic.up) < 3 * 64
        # The first request to train names no receipt: 32 bytes, their length and what they are.
        assert record.bytes_down == 3 * (found.traffic.down - 34 * (record.round == 1))
    total = sum(record.bytes_up + record.bytes_down for record in run.rounds)
    assert abs(total - found.traffic.total) < 3 * 3 * 64
    for name, spent in last.epsilon.items():
        assert spent == pytest.approx(sites[name].epsilon["pld"])


def test_each_accountant_answers(tiny_folder: Path, found: Forecast) -> None:
    for site in found.sites:
        assert site.epsilon["pld"] <= 8.0
        assert site.epsilon["prv"] == pytest.approx(site.epsilon["pld"], rel=0.05)
        assert site.epsilon["rdp"] > 0.9 * site.epsilon["pld"]
        assert site.noise_std == pytest.approx(site.noise_multiplier)  # the clipping norm is 1
        assert site.sampling_rate == 16 / site.examples
    laplace = forecast(tiny.job(tiny_folder, privacy={"mechanism": "laplace"}))
    assert laplace.sites[0].epsilon["prv"] is None
    assert laplace.sites[0].epsilon["rdp"] > 0
    assert laplace.sites[0].noise_std == pytest.approx(math.sqrt(2) * laplace.sites[0].noise_multiplier)


def test_without_noise_there_is_no_noise(tiny_folder: Path) -> None:
    open_job = forecast(tiny.job(tiny_folder, privacy={"mechanism": "none"}))
    assert open_job.noise.run == 0
    assert open_job.suggestions == ()
    assert set(open_job.sites[0].epsilon.values()) == {None}
    assert "nothing is protected" in open_job.sites[0].cautions[0]
    open_job.refuse_if_hopeless()


def test_a_large_delta_is_cautioned_against(tiny_folder: Path, found: Forecast) -> None:
    assert found.sites[0].cautions == ()
    careless = forecast(tiny.job(tiny_folder, privacy={"delta": 0.02}))
    assert "not below 1/examples" in careless.sites[0].cautions[0]


def test_a_hopeless_job_is_refused_with_what_would_help(tiny_folder: Path, found: Forecast) -> None:
    found.refuse_if_hopeless()
    hopeless = forecast(tiny.job(tiny_folder, **HOPELESS_JOB))
    assert hopeless.noise.run > HOPELESS
    with pytest.raises(PlanError, match=r"noise swamps the signal.* what would help.* -> .*--force"):
        hopeless.refuse_if_hopeless()
    with pytest.raises(PlanError, match="no change to this job"):
        replace(hopeless, suggestions=()).refuse_if_hopeless()


def test_advice_that_is_not_enough_says_so(tiny_folder: Path) -> None:
    hopeless = forecast(tiny.job(tiny_folder, **HOPELESS_JOB))
    best = hopeless.suggestions[0]
    for share, words in ((0.9, r"help most: .* -> 2\.7, or pass"), (1.1, "not enough by itself, or pass")):
        changed = replace(hopeless, suggestions=(replace(best, after=share * HOPELESS),))
        with pytest.raises(PlanError, match=words):
            changed.refuse_if_hopeless()


def test_the_bearable_learning_rate_falls_with_the_noise(found: Forecast) -> None:
    def bearable(run: float) -> float:
        return replace(found.noise, run=run).bearable(8.0)

    assert bearable(0.0) == bearable(HIGH) == 8.0
    assert bearable(4 * HIGH) == pytest.approx(2.0)


def wasteful(tiny_folder: Path) -> Job:
    """A job to which every change applies."""
    return tiny.job(
        tiny_folder,
        adapter={"rank": 4, "layers_to_transform": [0, 1]},
        privacy={"mechanism": "laplace", "epsilon": 2.0},
        strategy={"name": "lora"},
    )


@pytest.mark.exhaustive
def test_suggestions_do_what_they_say(tiny_folder: Path, tmp_path: Path) -> None:
    """Each change that ``--set`` can make is made, and the job planned anew: the noise is as foretold.

    Plans differ by the search's relative tolerance of 1e-3 at most, before and after.
    """
    path = tmp_path / "job.toml"
    path.write_text(job_toml(wasteful(tiny_folder)))
    found = forecast(read_job(path))
    assert len(found.suggestions) >= 8
    assert list(found.suggestions) == sorted(found.suggestions, key=lambda each: each.after)
    for suggestion in found.suggestions:
        assert suggestion.before == found.noise.run
        assert suggestion.after < suggestion.before
        if suggestion.settings:
            changed = forecast(read_job(path, settings=suggestion.settings))
            assert changed.noise.run == pytest.approx(suggestion.after, rel=5e-3), suggestion.text
    together = next(each for each in found.suggestions if "together" in each.text)
    assert len(together.settings) >= 4
    assert together.after == found.suggestions[0].after


def test_only_changes_that_apply_are_suggested(tiny_folder: Path, found: Forecast) -> None:
    texts = " ".join(each.text for each in forecast(wasteful(tiny_folder)).suggestions)
    for words in ("A frozen", "Gaussian", "half of these layers", "half the rank", "twice the sites"):
        assert words in texts
    plain = forecast(
        tiny.job(tiny_folder, adapter={"rank": 1}, training={"batch_size": 60}, **HOPELESS_JOB)
    )
    texts = " ".join(each.text for each in plain.suggestions)
    for words in ("A frozen", "Gaussian", "layers", "rank", "batch"):
        assert words not in texts


@pytest.mark.exhaustive
def test_many_sizes_are_stood_for_by_a_few(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 40 sites of 40 sizes the suggestions still say what planning all of them would, nearly."""
    job = tiny.job(tiny_folder)
    layout = _layout(tiny_folder)
    setup = Setup(job=job, layout=layout, examples=tuple(range(60, 100)))
    before = setup.noise_level().run
    asked: list[int] = []
    plans = Setup.plans
    monkeypatch.setattr(
        Setup, "plans", lambda self: (asked.append(len(set(self.examples))), plans(self))[1]
    )
    (sites,) = [each for each in suggest(setup, run=before) if each.text.startswith("twice the sites")]
    assert max(asked) <= 9
    assert sites.after == pytest.approx(before / math.sqrt(2))


@pytest.mark.parametrize("strategy", ["lora", "fedsb"])
def test_a_lower_rank_is_that_of_layers_that_no_pattern_names(tiny_folder: Path, strategy: str) -> None:
    """The layout that is planned with is the one that the changed job has."""
    changes: dict[str, Any] = {"strategy": {"name": strategy}}
    adapter = {"rank": 4, "layers_to_transform": [0, 1], "rank_pattern": {"0.attention.self.value": 3}}
    job = tiny.job(tiny_folder, adapter=adapter, **changes)
    setup = Setup(job=job, layout=_layout(tiny_folder, adapter=adapter, **changes), examples=(60, 60))
    found = {one.settings: one.setup for make in (_lower_rank, _fewer_layers) if (one := make(setup))}
    # In the upper half of the layers the pattern would name none.
    (settings,) = found
    assert settings == ("adapter.rank=2",)
    assert found[settings].layout == _layout(tiny_folder, adapter=adapter | {"rank": 2}, **changes)
    everywhere = adapter | {"rank_pattern": {"query": 3, "value": 3}}
    layout = _layout(tiny_folder, adapter=everywhere, **changes)
    job = tiny.job(tiny_folder, adapter=everywhere, **changes)
    assert _lower_rank(replace(setup, job=job, layout=layout)) is None


def test_cores_take_a_share_of_the_bytes(tiny_folder: Path) -> None:
    """Of a layer of MiniLM's, 384 by 384, both halves are 192 times a core at rank 4, and 96 at 8."""
    for rank in (4, 8):
        both, core = rank * (384 + 384), rank * rank
        assert both / core == 768 / rank >= 50
    sizes = {
        name: _layout(tiny_folder, strategy={"name": name}, adapter={"rank": 4}).update_size
        for name in ("lora", "fedsb")
    }
    head = 2 * 16 + 2
    assert sizes == {"lora": 2 * 4 * (16 + 16) + head, "fedsb": 2 * 4 * 4 + head}


@pytest.mark.parametrize("cohort", [3, 2])
def test_each_site_sends_what_its_own_rank_takes(tiny_folder: Path, cohort: int) -> None:
    """Two ranks fewer at one site of three: 2 · (16 + 20) numbers of four bytes, in each of its rounds."""
    sizes = {"l.lora_A.weight": (3, 20), "l.lora_B.weight": (16, 3), "l.residual.weight": (16, 20)}
    plans = {f"site-{number}": plan(multiplier=1.0) for number in (1, 2, 3)}
    found = {}
    for ranks in (None, {"site-1": 1}):
        job = tiny.job(tiny_folder, strategy={"name": "flora"}, adapter={"rank": 3, "ranks": ranks})
        found[ranks is None] = traffic(job, job.strategy.lay_out(sizes), plans, cohort=cohort)
    fewer = found[True].total - found[False].total
    # Three rounds; where two are drawn, a site is in two of three. Lengths take a few bytes, too.
    assert fewer == pytest.approx(3 * 2 * (16 + 20) * 4 * cohort / 3, abs=12)
    assert found[True].up == found[False].up


def _layout(tiny_folder: Path, **changes: Any) -> Any:
    from simulation.simulated_federation import World

    return World(tiny.job(tiny_folder, **changes)).adapted.layout


def test_a_batch_larger_than_a_sites_data_names_the_site(tiny_folder: Path) -> None:
    with pytest.raises(PlanError, match=r"site-1: .*batch_size=500"):
        forecast(tiny.job(tiny_folder, training={"batch_size": 500}))


def ticks() -> Iterator[float]:
    """A clock that goes on by a second each time that it is looked at."""
    now = 0.0
    while True:
        yield now
        now += 1.0


@pytest.mark.statistics
def test_time_grows_with_the_work(tiny_folder: Path) -> None:
    """By a clock that ticks once a look, a batch and an example cost the same in every job."""

    def seconds(**changes: Any) -> float:
        clock = ticks()
        return forecast(tiny.job(tiny_folder, **changes), clock=lambda: next(clock)).effort.seconds

    base, double = seconds(), seconds(training={"rounds": 6})
    assert 1.5 * base < double < 2.5 * base
    assert seconds(training={"batch_size": 32}) > base


def test_the_table_is_plain_json(found: Forecast) -> None:
    table = json.loads(json.dumps(found.as_table(), allow_nan=False))
    assert set(table) == {
        "job",
        "parameters",
        "sites",
        "phases",
        "noise",
        "fewest_sites",
        "traffic",
        "effort",
        "remarks",
        "suggestions",
        "budgets",
    }
    assert table["job"] == "tiny"
    assert set(table["sites"][0]["epsilon"]) == {"pld", "rdp", "prv"}
    assert table["noise"]["verdict"] == found.noise.verdict
