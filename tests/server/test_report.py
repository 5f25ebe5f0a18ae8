"""The report says what a run did, warns when it must, and is one safe, self-contained page."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from protocol.job import Job
from server.notices import find_notices
from server.report import render_report, write_report
from server.run_folder import RoundRecord
from tests.server.runs import make_compared, make_job, make_record, make_run

VOID = {"meta", "br", "hr", "img", "link", "input"}


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
    job = make_job(task="causal-lm", data={"label": None, "labels": None})
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
    folder = make_run(tmp_path / "run", job, records, labels=[evil], device=evil, versions={evil: evil})
    page = render_report(folder)
    outline = Outline(page)
    assert outline.open == []
    assert {"img", "script", "i", "b"} & set(outline.tags) == {"i"}  # the gauge's own
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
