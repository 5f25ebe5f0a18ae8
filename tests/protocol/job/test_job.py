"""Jobs: what is read, and what is refused with the key named."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from privacy.errors import JobError
from protocol.job.adapter_section import top_share
from protocol.job.job_file import job_toml, parse_job
from protocol.job.stages_file import is_stages_file, read_stages_file
from tasks.registry import checked_job, read_job, section_of
from tests import tiny

FILES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.toml"))
EXAMPLES = [path for path in FILES if not is_stages_file(path)]


def refused(table: dict[str, Any]) -> str:
    with pytest.raises(JobError) as caught:
        checked_job(parse_job(table))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_jobs(path: Path) -> None:
    assert read_job(path).name == path.stem


def test_the_other_examples_are_stages_of_such_jobs() -> None:
    (path,) = set(FILES) - set(EXAMPLES)
    file = read_stages_file(path)
    assert file.name == path.stem
    jobs = [read_job(path.parent / one.job, settings=one.settings) for one in file.stage]
    assert [job.task for job in jobs] == ["instruction", "preferences"]
    assert jobs[0].adapter == jobs[1].adapter


def test_the_template_is_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(files("confide").joinpath("job_template.toml").read_text())
    assert read_job(path).privacy.epsilon == 3.0


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("training", "round", 3, ["training.round", "unknown key"]),
        ("training", "rounds", "three", ["training.rounds", "integer", "'three'"]),
        ("training", "rounds", 0, ["training.rounds", "greater than or equal to 1", "0"]),
        ("training", "rounds", 2.5, ["training.rounds", "2.5"]),
        ("training", "rounds", 10**9, ["training.rounds", "less than or equal to 100000", "1000000000"]),
        ("training", "rounds", 600_000, ["training.rounds"]),
        ("seeds", "data", 2**63, ["seeds.data"]),
        ("metrics", "epsilon", 1e-300, ["metrics", "expected 0, or 1e-06 at least"]),
        ("training", "rounds", True, ["training.rounds", "True"]),
        ("training", "learning_rate", float("inf"), ["training.learning_rate"]),
        ("training", "learning_rate", float("nan"), ["training.learning_rate"]),
        ("privacy", "epsilon", 0.0, ["privacy.epsilon", "greater than or equal to 0.000001"]),
        ("privacy", "delta", 0.5, ["privacy.delta", "less than 0.5"]),
        ("privacy", "unit", "record", ["privacy.unit", "'example'", "'site'"]),
        ("privacy", "noise", "local", ["privacy.noise", "'distributed'", "'central'"]),
        ("aggregation", "kind", "mask", ["aggregation.kind", "'masks', 'homomorphic', 'none'", "'mask'"]),
        ("aggregation", "treshold", 3, ["aggregation.treshold", "did you mean 'threshold'?"]),
        ("aggregation", "threshold", 1, ["aggregation.threshold", "greater than or equal to 2"]),
        ("aggregation", "threshold", 2.0, ["aggregation.threshold", "integer"]),
        ("aggregation", "colluding", -1, ["aggregation.colluding", "greater than or equal to 0"]),
        ("aggregation", "confirm", 1, ["aggregation.confirm", "boolean"]),
        ("aggregation", "modulus_bits", 24, ["aggregation.modulus_bits", "16, 20 or 32", "24"]),
        ("aggregation", "modulus_bits", 64, ["aggregation.modulus_bits", "64"]),
        ("compression", "kind", "top", ["compression.kind", "'top-k'"]),
        ("compression", "share", 0.0, ["compression.share", "greater than or equal to 0.000001"]),
        ("compression", "share", 1.01, ["compression.share", "less than or equal to 1"]),
        (
            "compression",
            "share",
            0.2,
            ['compression.share: expected kind="random" or "top-k"', "share=0.2"],
        ),
        ("compression", "shar", 0.2, ["compression.shar: unknown key", "did you mean 'share'?"]),
        ("strategy", "sever", {}, ["strategy.sever: unknown key of name='fedsvd'", "mean 'server'?"]),
        ("strategy", "server", {"optimizer": "fedadam", "bet1": 0.1}, ["server.bet1", "mean 'beta1'?"]),
        ("privacy", "mechanism", "none at all", ["privacy.mechanism", "gaussian"]),
        ("federation", "partition", "random", ["federation.partition", "iid"]),
        ("federation", "partition", {"dirichlet": 0.0}, ["federation.partition.dirichlet"]),
        ("federation", "partition", {"alpha": 0.1}, ['expected "iid", { dirichlet = 0.5 } or { column']),
        ("federation", "cohort", 0, ["federation.cohort: expected greater than or equal to 1, got 0"]),
        ("federation", "cohort", 1.5, ["federation.cohort: expected a number of sites, or a share"]),
        ("adapter", "layers_to_transform", [-1], ["adapter.layers_to_transform.0: expected greater"]),
        ("adapter", "layers_to_transform", True, ['layers_to_transform: expected numbers or "top 20%"']),
        ("adapter", "layers_to_transform", "lower 80%", ["adapter.layers_to_transform", "top 20%"]),
        ("adapter", "layers_to_transform", [], ["adapter.layers_to_transform", "at least one"]),
        ("adapter", "target_modules", [], ["adapter.target_modules"]),
        ("adapter", "dropout", 0.1, ["adapter.dropout", "expected 0 where noise hides an example"]),
        ("data", "labels", ["one"], ["data.labels"]),
        ("data", "labels", ["no", "no"], ["data.labels: expected each once"]),
        ("data", "separator", ";;", ["data.separator: expected one character", "got ';;'"]),
        ("data", "separator", "a", ["data.separator: expected one character"]),
        ("data", "odd", [["x"]], ["data.odd: expected text, a finite number"]),
        ("data", "validation", "x.csv", ["data.holdout: expected none with data.validation"]),
        ("training", "physical_batch_size", 99, ["training.physical_batch_size", "99", "16"]),
        ("data", "label", None, ["data.label", "column"]),
        ("data", "labels", None, ["data.labels", "private data"]),
    ],
)
def test_wrong_keys_are_named(
    tiny_folder: Path, section: str, key: str, value: object, words: list[str]
) -> None:
    table = tiny.table(tiny_folder) | {"aggregation": {"kind": "masks"}}
    table[section] = {**table.get(section, {}), key: value}
    message = refused(table)
    assert [word for word in words if word not in message] == [], message


MASKS: dict[str, Any] = {"aggregation": {"kind": "masks"}}
HOMOMORPHIC: dict[str, Any] = {"aggregation": {"kind": "homomorphic"}}
FFA: dict[str, Any] = {"strategy": {"name": "ffa"}}
SHARED: dict[str, Any] = {"unit": "site", "mechanism": "skellam"}
CENTRAL: dict[str, Any] = {"unit": "site", "mechanism": "gaussian", "noise": "central"}
# What is one key away from a job, and that job.
PAIRS: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (MASKS | {"privacy": SHARED}, {"privacy": {"unit": "example"}}, ["privacy.unit", "own site's noise"]),
    (MASKS | {"privacy": CENTRAL}, {"privacy": {"unit": "example"}}, ["privacy.unit", '"central"']),
    (MASKS | {"privacy": SHARED}, {"privacy": {"mechanism": "gaussian"}}, ["mechanism", '"skellam"']),
    (MASKS | {"privacy": SHARED}, {"privacy": {"mechanism": "laplace"}}, ["mechanism", '"laplace"']),
    (MASKS | {"privacy": CENTRAL}, {"privacy": {"mechanism": "skellam"}}, ["mechanism", '"gaussian"']),
    (MASKS | {"privacy": SHARED}, {"aggregation": {"kind": "none"}}, ["aggregation.kind", "hides nothing"]),
    (
        MASKS | {"privacy": CENTRAL},
        {"aggregation": {"modulus_bits": 20}},
        ["aggregation.modulus_bits", "expected 32"],
    ),
    (
        MASKS | {"privacy": SHARED},
        {"aggregation": {"confirm": False}},
        ["aggregation.confirm", "expected true"],
    ),
    (MASKS | {"privacy": SHARED}, {"metrics": {"epsilon": 0.5}}, ["metrics.epsilon", "expected 0"]),
    (
        FFA | {"compression": {"kind": "random"}},
        {"strategy": {"name": "fedsvd"}},
        ["compression.kind", "basis"],
    ),
    (FFA | {"compression": {"kind": "top-k"}}, MASKS, ["compression.kind", "cannot be summed unread"]),
    (
        FFA | {"compression": {"kind": "top-k"}},
        {"privacy": CENTRAL},
        ["compression.kind", "cannot be summed unread"],
    ),
    (
        {"aggregation": {"kind": "masks", "threshold": 3}},
        {"aggregation": {"kind": "none"}},
        ["aggregation.threshold: unknown key of kind='none'"],
    ),
    (
        {"aggregation": {"kind": "masks", "confirm": False}},
        {"aggregation": {"kind": "homomorphic"}},
        ["aggregation.confirm: unknown key of kind='homomorphic'"],
    ),
    (
        FFA | {"compression": {"kind": "random"}},
        {"aggregation": {"kind": "homomorphic"}},
        ["compression.kind", "homomorphic"],
    ),
    (
        MASKS | {"privacy": SHARED},
        {"aggregation": {"kind": "homomorphic"}},
        ["privacy.unit", "homomorphic"],
    ),
    ({"aggregation": {"kind": "homomorphic"}}, {"privacy": CENTRAL}, ["privacy.unit", "homomorphic"]),
    (
        {"aggregation": {"kind": "homomorphic"}},
        {"metrics": {"epsilon": 0.5}},
        ["metrics.epsilon", "homomorphic"],
    ),
]


def changed(table: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    return table | {
        name: {**table.get(name, {}), **section} if isinstance(section, dict) else section
        for name, section in sections.items()
    }


@pytest.mark.parametrize(("job", "change", "words"), PAIRS)
def test_what_contradicts_itself_about_sums_is_refused(
    tiny_folder: Path, job: dict[str, Any], change: dict[str, Any], words: list[str]
) -> None:
    whole = changed(tiny.table(tiny_folder), job)
    parse_job(whole)
    message = refused(changed(whole, change))
    assert [word for word in words if word not in message] == [], message


def test_updates_are_summed_under_masks_unless_a_job_says_otherwise(tiny_folder: Path) -> None:
    table = tiny.table(tiny_folder)
    del table["aggregation"]
    job = parse_job(table)
    assert job.aggregation.kind == "masks"
    assert (job.aggregation.threshold, job.aggregation.colluding, job.aggregation.confirm) == (
        None,
        0,
        True,
    )
    assert (job.aggregation.modulus_bits, job.compression.kind, job.privacy.unit) == (32, "none", "example")


def test_a_round_that_hides_sites_is_one_release(tiny_folder: Path) -> None:
    training = {"rounds": 5, "local_steps": 3}
    table = changed(tiny.table(tiny_folder), {"training": training})
    assert parse_job(table).steps_in(1) == 3
    site = parse_job(changed(table, MASKS | {"privacy": SHARED}))
    assert (site.steps_in(1), site.training.total_steps) == (1, 15)


@pytest.mark.parametrize(
    ("epsilon", "mechanism", "words"),
    [
        (-0.1, "gaussian", ["metrics.epsilon", "greater than or equal to 0"]),
        (101.0, "gaussian", ["metrics.epsilon", "less than or equal to 100"]),
        (0.5, "none", ["metrics.epsilon", "expected 0", 'privacy.mechanism="none"']),
    ],
)
def test_metrics_that_protect_nothing_are_refused(
    tiny_folder: Path, epsilon: float, mechanism: str, words: list[str]
) -> None:
    table = tiny.table(tiny_folder) | {"metrics": {"epsilon": epsilon}}
    table["privacy"]["mechanism"] = mechanism
    message = refused(table)
    assert [word for word in words if word not in message] == [], message


def test_all_wrong_keys_are_named_at_once(tiny_folder: Path) -> None:
    table = tiny.table(tiny_folder) | {"nonsense": 1}
    table["training"]["rounds"] = -1
    lines = refused(table).splitlines()
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"data": {"label": "label"}}, "data.label"),
        ({"model": {"source": "x", "pooling": "mean"}}, "model.pooling"),
        ({"federation": {"partition": {"dirichlet": 1.0}}}, "federation.partition"),
    ],
)
def test_what_a_language_model_has_no_use_for_is_refused(
    tiny_folder: Path, changes: dict[str, Any], word: str
) -> None:
    table = tiny.table(tiny_folder) | {"task": "causal-lm", "model": {"source": "x"}}
    del table["data"]["label"], table["data"]["labels"]
    parse_job(table)
    for section, values in changes.items():
        table[section] = {**table[section], **values}
    assert word in refused(table)


def test_a_missing_section_is_named() -> None:
    message = refused({})
    for section in ("model", "data"):
        assert f"{section}: missing" in message


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("training.rounds=2", lambda job: job.training.rounds == 2),
        ("data.text=note", lambda job: section_of(job).text == "note"),
        ('data.text="a=b"', lambda job: section_of(job).text == "a=b"),
        ("adapter.target_modules=['query']", lambda job: job.adapter.target_modules == ["query"]),
        ("federation.partition={ dirichlet = 0.5 }", lambda job: job.federation.partition != "iid"),
        ("seeds.noise=7", lambda job: job.seeds.noise == 7),
    ],
)
def test_keys_are_set_on_the_command_line(
    tiny_folder: Path, tmp_path: Path, setting: str, found: Any
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(tomli_w.dumps(tiny.table(tiny_folder)))
    assert not found(read_job(path))
    assert found(read_job(path, settings=[setting]))


@pytest.mark.parametrize("kind", ["masks", "homomorphic", "none"])
def test_the_kind_of_sum_has_a_short_form(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "job.toml"
    table = tiny.table(tiny_folder)
    table.pop("aggregation", None)
    path.write_text(tomli_w.dumps(table | {"secure_aggregation": kind}))
    assert read_job(path).aggregation.kind == kind
    assert read_job(path, settings=["secure_aggregation=none"]).aggregation.kind == "none"


def test_the_short_form_goes_with_the_other_keys_and_not_with_the_long_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "job.toml"
    short = tiny.table(tiny_folder) | {"secure_aggregation": "masks"}
    path.write_text(tomli_w.dumps(short | {"aggregation": {"colluding": 1}}))
    assert read_job(path).masks.colluding == 1
    for wrong, said in (
        (short | {"aggregation": {"kind": "none"}}, "aggregation.kind is there as well"),
        (short | {"aggregation": {}, "secure_aggregation": "rot13"}, "aggregation.kind: expected"),
        (short | {"aggregation": {}, "secure_aggregation": 3}, "aggregation.kind: expected"),
        (short | {"aggregation": "none"}, "aggregation"),
    ):
        path.write_text(tomli_w.dumps(wrong))
        with pytest.raises(JobError, match=said):
            read_job(path)


@pytest.mark.parametrize("setting", ["rounds", "=3", "training..rounds=2", "name.x=1"])
def test_odd_settings_are_refused(tiny_folder: Path, tmp_path: Path, setting: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(tomli_w.dumps(tiny.table(tiny_folder)))
    with pytest.raises(JobError):
        read_job(path, settings=[setting])


def test_files_that_are_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="confide init"):
        read_job(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(JobError, match="not TOML"):
        read_job(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(JobError, match="cannot read"):
        read_job(broken)
    with pytest.raises(JobError, match="cannot read"):
        read_job(tmp_path)


def test_paths_beside_the_job_file_are_found(tiny_folder: Path, tmp_path: Path) -> None:
    table = tiny.table(tiny_folder)
    (tmp_path / "mine.csv").write_text("text,label\n")
    table["data"] |= {"source": "mine.csv", "validation": "mine.csv"}
    del table["data"]["holdout"]
    path = tmp_path / "job.toml"
    path.write_text(tomli_w.dumps(table))
    found = read_job(path).data
    assert {found.source, found.validation} == {str(tmp_path / "mine.csv")}


def test_a_job_written_as_toml_reads_back_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, federation={"partition": {"column": "town"}}, seeds={"noise": 3})
    path = tmp_path / "job.toml"
    path.write_text(job_toml(job))
    assert read_job(path) == checked_job(job)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("top 20%", 0.2),
        ("top 100%", 1.0),
        ("top 0%", None),
        ("top 101%", None),
        ("20%", None),
        ("top x%", None),
    ],
)
def test_top_share(text: str, share: float | None) -> None:
    assert top_share(text) == share


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"privacy": 3}, "privacy: expected a section of keys, got 3"),
        ({"privacy": []}, r"privacy: expected a section of keys, got \[\]"),
        ({"data": {"source": "a.csv", "labels": ["a"]}}, "data.labels: expected at least 2 of them, got 1"),
        ({"data": {"source": "a.csv", "labels": []}}, "data.labels: expected at least 2 of them, got 0"),
    ],
)
def test_sections_and_lists_are_told_in_plain_words(table: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        checked_job(
            parse_job(
                {
                    "model": {"source": "m"},
                    "adapter": {"target_modules": ["q"]},
                    "data": {"source": "a.csv"},
                }
                | table
            )
        )
