"""A mix of sources: what is refused when a job is read, and the rates that its shares mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError, PlanError
from protocol.job.job import Job
from protocol.job.job_file import job_toml, parse_job, read_job_file
from protocol.job.manifest import Manifest, read_manifest
from protocol.job.mix import planned_examples, source_rates
from protocol.toml_file import parse_toml
from tests import tiny

OTHER = {"alias": "other", "source": "other.csv", "share": 0.25}
THIRD = {"alias": "third", "source": "third.csv", "share": 0.25}


def mixed(folder: Path, *sources: dict[str, Any], **changes: Any) -> Job:
    return tiny.job(folder, data={"mix": list(sources)}, **changes)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([OTHER | {"share": 0.0}], r"data\.mix\.0\.share: "),
        ([OTHER | {"share": 1.0}], r"data\.mix\.0\.share: "),
        ([{"alias": "other", "share": 0.5}], r"data\.mix\.0\.source: missing"),
        ([{"source": "other.csv", "share": 0.5}], r"data\.mix\.0\.alias: missing"),
        ([OTHER | {"text": "t"}], r"data\.mix\.0\.text: unknown key"),
        ([OTHER | {"share": 0.5}, THIRD | {"share": 0.5}], r"data\.mix: .* some for data\.source.* got 1"),
        ([OTHER, OTHER], r"data\.mix: expected an alias of its own"),
        ([OTHER | {"alias": "data"}], r"data\.mix: expected an alias of its own"),
        ([OTHER | {"alias": "a + b"}], r"data\.mix: expected aliases without ' \+ '"),
    ],
)
def test_what_is_no_mix_is_refused(tiny_folder: Path, sources: list[Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        mixed(tiny_folder, *sources)


def test_what_wants_one_rate_is_refused(tiny_folder: Path) -> None:
    banded = {"noise_correlation": "banded", "bands": 2}
    with pytest.raises(JobError, match=r'privacy\.noise_correlation: expected "none" with data\.mix'):
        mixed(tiny_folder, OTHER, privacy=banded, strategy={"name": "ffa"})
    with pytest.raises(JobError, match=r"phase: expected none with data\.mix, got 1"):
        mixed(tiny_folder, OTHER, phase=[{"name": "all", "rounds": 3, "batch_size": 8}])
    with pytest.raises(JobError, match=r"federation\.partition: .* with data\.mix"):
        mixed(tiny_folder, OTHER, federation={"partition": {"column": "town"}})


def test_a_source_with_less_than_its_share_of_a_batch_is_refused(tiny_folder: Path) -> None:
    job = mixed(tiny_folder, OTHER)
    with pytest.raises(PlanError, match=r"data\.mix: expected at least 4 examples of 'other' .*, got 3"):
        source_rates(job, (60, 3))
    with pytest.raises(PlanError, match=r"at least 12 examples of 'data'"):
        source_rates(job, (0, 60))


def test_a_rate_is_a_share_of_the_batch_over_the_examples(tiny_folder: Path) -> None:
    job = mixed(tiny_folder, OTHER, THIRD)  # of a batch of 16: 8, 4 and 4
    assert job.data.shares == (0.5, 0.25, 0.25)
    assert source_rates(job, (80, 10, 4)) == (0.1, 0.4, 1.0)
    assert planned_examples(job, (80, 10, 4)) == 16
    assert planned_examples(job, (80, 100, 400)) == 160
    # 16 / (4/41) is 164, and no plan for more examples has so large a rate.
    assert 16 / planned_examples(job, (800, 41, 400)) >= source_rates(job, (800, 41, 400))[1]


def test_a_mix_is_in_file_and_manifest_as_it_was_written(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text,label\n")
    job = mixed(tiny_folder, OTHER, THIRD)
    assert parse_job(parse_toml(job_toml(job))) == job
    manifest = Manifest(
        run="run", job=job, cohort=3, labels=("no", "yes"), model_digest="ab" * 32, layout_digest="cd" * 32
    )
    assert read_manifest(manifest.content).job.data.mix == job.data.mix
    assert job.data.joint_alias == "data + other + third"
    path = tmp_path / "job.toml"
    path.write_text(job_toml(job))
    found = read_job_file(path, settings=["training.rounds=1"])
    # As data.source, a path that is there means the file beside the job.
    assert [source.source for source in found.data.mix] == [str(tmp_path / "other.csv"), "third.csv"]
