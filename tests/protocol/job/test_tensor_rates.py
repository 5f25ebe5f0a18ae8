"""Learning rates by tensor: which keys name what, and what they do not go with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError
from protocol.job.job_file import job_toml, read_job_file
from protocol.job.tensor_rates import check_rates, rate_factor
from protocol.sums.update_encoding import update_reach
from server.job_context import Workplace
from tests.server.runs import make_job

B = "base_model.model.bert.encoder.layer.4.attention.self.query.lora_B.weight"
HEAD = "base_model.model.classifier.weight"


def training(**rates: float) -> Any:
    return make_job(training={"rates": rates}).training


@pytest.mark.parametrize(
    ("key", "expected"),
    [("lora_B", (4.0, 1.0)), ("classifier", (1.0, 4.0)), ("layer.4", (4.0, 1.0)), ("weight", (4.0, 4.0))],
)
def test_a_key_names_tensors_by_whole_parts_of_their_names(key: str, expected: tuple[float, float]) -> None:
    section = training(**{key: 4.0})
    assert (rate_factor(section, B), rate_factor(section, HEAD)) == expected
    check_rates(section, [B, HEAD])


@pytest.mark.parametrize("key", ["layer.40", "yer.4", "lora_A", "layer.attention"])
def test_a_key_that_names_nothing_is_refused(key: str) -> None:
    section = training(**{key: 4.0})
    assert rate_factor(section, B) == 1.0
    with pytest.raises(JobError, match=rf'training\.rates: "{key}" is in the name of no tensor'):
        check_rates(section, [B, HEAD])


def test_two_keys_for_one_tensor_are_refused() -> None:
    with pytest.raises(JobError, match=r"training\.rates: layer\.4 and lora_B both name base_model"):
        check_rates(training(**{"layer.4": 2.0, "lora_B": 3.0}), [B, HEAD])


def test_the_coordinator_refuses_a_key_for_what_is_not_trained(tiny_folder: Path, tmp_path: Path) -> None:
    from tests import tiny

    place = Workplace.load(tiny.job(tiny_folder, training={"rates": {"lora_A": 2.0}}))
    with pytest.raises(JobError, match=r'training\.rates: "lora_A"'):
        place.create_folder(tmp_path / "run", manifest=place.manifest("run", cohort=3))


def test_rates_are_kept_in_a_job_file(tmp_path: Path) -> None:
    job = make_job(training={"rates": {"layer.4": 0.5, "classifier": 2.0}})
    (tmp_path / "job.toml").write_text(job_toml(job))
    assert read_job_file(tmp_path / "job.toml").training.rates == {"classifier": 2.0, "layer.4": 0.5}


def test_a_sum_has_room_for_the_fastest_tensor() -> None:
    plain, fast = make_job(), make_job(training={"rates": {"lora_B": 4.0, "classifier": 0.5}})
    slow = make_job(training={"rates": {"classifier": 0.5}})
    assert update_reach(fast) == 4.0 * update_reach(plain)
    assert update_reach(slow) == update_reach(plain)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"strategy": {"name": "scaffold"}}, r"training\.rates: .* over one learning rate"),
        ({"training": {"proximal": 0.5}}, r"training\.rates: .* proximal <= 1"),
        ({"training": {"rates": {"lora_B": 0.0}}}, r"training\.rates"),
    ],
)
def test_what_rates_do_not_go_with_is_refused(changes: dict[str, Any], key: str) -> None:
    section = {"rates": {"lora_B": 4.0}, **changes.get("training", {})}
    with pytest.raises(JobError, match=key):
        make_job(**changes | {"training": section})
