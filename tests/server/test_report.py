"""The report says what a run did, warns when it must, and is one safe, self-contained page."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.job import Job
from protocol.job_file import parse_job
from protocol.layout import AdapterLayout, TensorSlot
from protocol.manifest import Manifest
from server.report import (
    find_notices,
    format_bytes,
    format_epsilon,
    format_seconds,
    read_comparison,
    render_report,
    write_report,
)
from server.run_folder import RoundRecord, RunFolder

LAYOUT = AdapterLayout(slots=(TensorSlot(name="b", shape=(2, 2), trained=True),))
ADAPTER = np.zeros(4, np.float32)
VOID = {"meta", "br", "hr", "img", "link", "input"}


def make_job(**sections: dict[str, Any]) -> Job:
    table: dict[str, Any] = {
        "name": "tweets",
        "model": {"source": "somewhere"},
        "adapter": {"target_modules": ["query"]},
        "data": {"source": "tweets.csv", "label": "mood"},
        "training": {"rounds": 2},
    }
    for name, section in sections.items():
        table[name] = section if not isinstance(section, dict) else table.get(name, {}) | section
    return parse_job(table)


def make_record(number: int, **changes: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "round": number,
        "loss": 1.0 / number,
        "accuracy": 0.5 + 0.087 * number,
        "epsilon": {"north": 1.5 * number, "south": 1.5 * number},
        "bytes_up": 12_300,
        "bytes_down": 45_600,
        "seconds": 40.0,
        "training_seconds": 30.0,
    }
    return RoundRecord(**values | changes)


def make_run(
    path: Path,
    job: Job | None = None,
    records: list[RoundRecord] | None = None,
    **facts: Any,
) -> RunFolder:
    job = job or make_job()
    labels = ("bad", "good") if job.task == "sequence-classification" else ()
    manifest = Manifest(
        run=path.name, job=job, labels=labels, base_digest="ab" * 32, layout_digest=LAYOUT.digest
    )
    known = {
        "versions": {"confide": "0.1.0", "torch": "2"},
        "device": "cpu, float32",
        "base_digest": "ab" * 32,
        "trained_parameters": 7299,
        "adapter_parameters": 13443,
        "frozen_layers_below": 4,
        "labels": list(labels),
        "held_out_examples": 1000,
        "examples_by_site": {"north": 720, "south": 721},
        "majority": 0.424,
    }
    folder = RunFolder.create(
        path,
        manifest=manifest,
        facts=known | facts,
        layout=LAYOUT,
        adapter=ADAPTER,
        adapter_config={},
    )
    for record in [make_record(1), make_record(2)] if records is None else records:
        folder.finish_round(record, LAYOUT, ADAPTER)
    return folder


def titles(job: Job, records: list[RoundRecord]) -> list[str]:
    return [notice.title for notice in find_notices(job, records)]


def result(page: str) -> str:
    return re.findall(r'<p class="result">(.*?)</p>', page, re.DOTALL)[0]


class Outline(HTMLParser):
    """Tags in order, ids, and what is left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_result_names_sites_rounds_accuracy_and_epsilon(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "run"))
    assert result(page) == (
        "2 sites trained for 2 rounds; held-out accuracy 67.4 %, 25 points over always answering "
        "the most frequent label; each site spent ε = 3.00 of 3.00 at δ = 1e-5."
    )


def test_the_result_says_when_the_adapter_is_worse_than_a_constant(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "run", majority=0.7))
    assert "67.4 %, 2.6 points under always answering" in result(page)


def test_sites_that_spent_differently_are_a_range(tmp_path: Path) -> None:
    records = [make_record(1), make_record(2, epsilon={"north": 1.25, "south": 2.5})]
    page = render_report(make_run(tmp_path / "run", records=records))
    assert "the sites spent ε = 1.25 to 2.50 of 3.00" in result(page)


def test_a_language_model_is_judged_by_perplexity(tmp_path: Path) -> None:
    job = make_job(task="causal-lm", data={"label": None})
    records = [make_record(1), make_record(2, loss=math.log(20), accuracy=0.31)]
    page = render_report(make_run(tmp_path / "run", job, records, majority=None))
    assert "held-out perplexity 20.0, next-token accuracy 31.0 %" in result(page)
    assert "most frequent label" not in page
    assert "points (95" not in page


def test_a_good_run_has_only_the_notice_that_it_is_a_simulation() -> None:
    assert titles(make_job(), [make_record(1), make_record(2)]) == ["A simulation"]


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_fixed_noise_is_said_to_be_not_private(tmp_path: Path, mechanism: str) -> None:
    job = make_job(seeds={"noise": 0}, privacy={"mechanism": mechanism})
    assert titles(job, [make_record(1), make_record(2)]) == [
        "Reproducible, therefore not private",
        "A simulation",
    ]
    page = render_report(make_run(tmp_path / "run", job))
    assert "with fresh noise each site would have spent ε = 3.00" in result(page)
    assert "each site spent" not in page


def test_no_mechanism_is_said_to_be_no_privacy(tmp_path: Path) -> None:
    job = make_job(privacy={"mechanism": "none"})
    records = [make_record(n, epsilon={"north": None, "south": None}) for n in (1, 2)]
    assert titles(job, records) == ["No privacy", "A simulation"]
    page = render_report(make_run(tmp_path / "run", job, records))
    assert "nothing protected the examples" in result(page)
    assert "noisy" not in page
    assert 'id="epsilon-' not in page  # no chart of it


def test_fewer_rounds_than_asked_for_are_said_to_be_unfinished(tmp_path: Path) -> None:
    assert titles(make_job(), [make_record(1)]) == ["Unfinished", "A simulation"]
    page = render_report(make_run(tmp_path / "run", records=[make_record(1)]))
    assert "1 of the 2 rounds that the job asked for is finished" in page


def test_a_run_without_a_finished_round_has_a_report(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "run", records=[]))
    assert "No round has finished yet" in result(page)
    assert "Unfinished" in page
    assert "<svg" not in page


@pytest.mark.parametrize("spent", [None, 3.01])
def test_an_epsilon_above_the_budget_is_said_out_loud(tmp_path: Path, spent: float | None) -> None:
    records = [make_record(1), make_record(2, epsilon={"north": spent, "south": 3.0})]
    assert titles(make_job(), records) == ["Budget exceeded", "A simulation"]
    assert "Budget exceeded" in render_report(make_run(tmp_path / "run", records=records))


def test_every_notice_is_on_the_page(tmp_path: Path) -> None:
    job = make_job(privacy={"mechanism": "none"}, seeds={"noise": 7})
    records = [make_record(1, epsilon={"north": None})]
    page = render_report(make_run(tmp_path / "run", job, records))
    assert len(find_notices(job, records)) == 4
    for notice in find_notices(job, records):
        assert f"<h2>{notice.title}</h2>" in page


def test_what_others_named_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&$x$"
    job = make_job(data={"label": evil, "source": "</code><script>alert(2)</script>"})
    records = [make_record(1, epsilon={evil: 1.0, "</svg><b>": 0.1})]
    folder = make_run(tmp_path / "<i>run", job, records, labels=[evil], device=evil, versions={evil: evil})
    page = render_report(folder)
    outline = Outline(page)
    assert outline.open == []
    assert {"img", "script", "i", "b"} & set(outline.tags) == {"i"}  # the gauge's own
    assert "<i>run" not in page
    assert "onerror=alert(1)&gt;" in page
    assert "onerror" not in {key for key, _ in outline.attributes}


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    page = write_report(make_compared(tmp_path)).read_text()
    outline = Outline(page)
    assert outline.open == []
    assert "<script" not in page
    assert "http" not in page
    assert "<?xml" not in page
    assert not {"link", "img", "iframe", "object"} & set(outline.tags)
    assert all(v.startswith("#") for k, v in outline.attributes if k in {"src", "href"})
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", page))


def test_ids_are_unique_and_references_resolve(tmp_path: Path) -> None:
    outline = Outline(render_report(make_compared(tmp_path)))
    assert len(outline.ids) == len(set(outline.ids))
    referred = {value[1:] for key, value in outline.attributes if key == "href"}
    referred |= {value for key, value in outline.attributes if key == "aria-labelledby"}
    assert referred
    assert referred <= set(outline.ids)


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert write_report(folder) == folder.path / "report.html"
    first = (folder.path / "report.html").read_bytes()
    assert write_report(folder).read_bytes() == first


def make_compared(path: Path, *, free: int = 2, alone: int = 2) -> RunFolder:
    """A run with both comparisons, each with as many finished rounds as said."""
    folder = make_run(path / "run")
    none = make_job(privacy={"mechanism": "none"})
    records = [make_record(n, accuracy=0.7, epsilon={"north": None}) for n in range(1, free + 1)]
    make_run(folder.path / "compare" / "without-privacy", none, records)
    records = [make_record(n, accuracy=0.55, epsilon={"north": 2.9}) for n in range(1, alone + 1)]
    make_run(folder.path / "compare" / "one-site", None, records)
    return folder


def test_without_comparisons_there_is_no_such_section(tmp_path: Path) -> None:
    assert 'id="comparison"' not in render_report(make_run(tmp_path / "run"))


def test_comparisons_are_shown_side_by_side(tmp_path: Path) -> None:
    folder = make_compared(tmp_path)
    page = render_report(folder)
    assert [run.title for run in read_comparison(folder)] == [
        "This run",
        "Without privacy",
        "One site alone",
    ]
    assert "Privacy costs 2.6 points of accuracy: accuracy is 67.4 % with it and 70.0 %" in page
    assert "Federation gains 12 points of accuracy: accuracy is 67.4 % together and 55.0 %" in page


def test_a_comparison_without_a_finished_round_is_left_out(tmp_path: Path) -> None:
    page = render_report(make_compared(tmp_path, free=0))
    assert "Federation gains" in page
    assert "Privacy costs" not in page
    assert ">Without privacy<" not in page
    folder = make_compared(tmp_path / "other", free=0, alone=0)
    assert read_comparison(folder) == ()
    assert 'id="comparison"' not in render_report(folder)


def test_what_costs_nothing_is_not_a_negative_cost(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    make_run(folder.path / "compare" / "one-site", None, [make_record(1, accuracy=0.9)])
    assert "Federation gains nothing here: accuracy is 67.4 %" in render_report(folder)


@pytest.mark.parametrize(("sites", "rows"), [(12, 12), (13, 3), (100, 3)])
def test_many_sites_are_summarised(tmp_path: Path, sites: int, rows: int) -> None:
    spent = {f"site-{n}": 1.0 + n / sites for n in range(sites)}
    records = [make_record(1, epsilon=spent), make_record(2, epsilon=spent)]
    counts = {name: 500 + n for n, name in enumerate(spent)}
    page = render_report(make_run(tmp_path / "run", None, records, examples_by_site=counts))
    assert page.count('<td class="gauge">') == rows
    for name in ("minimum", "median", "maximum"):
        assert (f'<th scope="row">{name}</th>' in page) == (rows == 3)


def test_hundreds_of_rounds_stay_a_small_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", make_job(training={"rounds": 300}), [])
    lines = (
        f'{{"round": {n}, "loss": 1.0, "accuracy": 0.5, "epsilon": {{"north": 1.0}}, "bytes_up": 1,'
        f' "bytes_down": 1, "seconds": 1.0, "training_seconds": 0.5}}\n'
        for n in range(1, 301)
    )
    (folder.path / "rounds.jsonl").write_text("".join(lines))
    assert len(render_report(folder)) < 400_000


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.991, "3.00"), (3.0, "3.00"), (2.99, "2.99"), (0.0, "0.00"), (0.0123, "0.013")],
)
def test_epsilon_is_rounded_up(value: float, said: str) -> None:
    assert format_epsilon(value) == said


def test_numbers_are_for_people() -> None:
    assert [format_bytes(n) for n in (0, 999, 12_300, 3.2e9)] == ["0 B", "999 B", "12.3 KB", "3.2 GB"]
    assert [format_seconds(s) for s in (4.24, 42.4, 59.7, 80, 7260)] == [
        "4.2 s",
        "42 s",
        "1 min 0 s",
        "1 min 20 s",
        "2 h 1 min",
    ]
