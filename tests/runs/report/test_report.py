"""The report says what a run did, warns when it must, and is one safe, self-contained page."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from protocol.job.job import Job
from protocol.job.manifest import Manifest
from runs.report.notices import Notice, find_notices
from runs.report.report import render_report, traffic_sentence, write_report
from runs.run_folder import RoundRecord
from tests.server.runs import LAYOUT, make_compared, make_job, make_record, make_run

VOID = {"meta", "br", "hr", "img", "link", "input"}


def notices(
    job: Job, records: list[RoundRecord], *, cohort: int = 2, federation: str | None = None
) -> list[Notice]:
    manifest = Manifest(
        run="run", job=job, cohort=cohort, labels=(), model_digest="ab" * 32, layout_digest=LAYOUT.digest
    )
    return find_notices(manifest, records, federation=federation)


def titles(job: Job, records: list[RoundRecord]) -> list[str]:
    return [notice.title for notice in notices(job, records)]


def told(cohort: int = 10, **sections: dict[str, object] | str) -> str:
    """What the last notice says of a finished run of a federation."""
    records = [make_record(1), make_record(2)]
    job = make_job(**{"aggregation": {"kind": "masks"}, **sections})
    last = notices(job, records, cohort=cohort, federation="five-hospitals")[-1]
    assert last.title == "What the coordinator sees"
    assert not last.grave
    return last.text


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
    assert len(notices(job, records)) == 4
    for notice in notices(job, records):
        assert f"<h2>{notice.title}</h2>" in page


# -- What the coordinator reads


@pytest.mark.parametrize(
    ("cohort", "aggregation", "min_survivors", "said"),
    [
        # t = 7: c <= min(t − 1, fewest − 2) = 6, and c <= min(2t − n − 1, t − 2) = 3 if it lies.
        (
            10,
            {},
            None,
            ["sums, each over all 10 sites", "at most 6 sites work with it and", "at most 3 sites"],
        ),
        # Of eight in the sum and seven that collude, one is left: the sum bounds it, not the threshold.
        (10, {}, 8, ["over at least 8 of 10 sites", "at most 6 sites work with it and", "at most 3 sites"]),
        (
            10,
            {"threshold": 10},
            None,
            ["at most 8 sites work with it, whether it follows the protocol or not"],
        ),
        (
            10,
            {"threshold": 6},
            6,
            ["at least 6 of 10", "at most 4 sites work with it and", "at most 1 site works"],
        ),
        # A round must have as many as it takes to uncover it, whatever min_sites says.
        (10, {"threshold": 9}, 3, ["at least 9 of 10", "at most 7 sites work with it, whether it"]),
        # Of two sites, one knows its own part and so the other's.
        (2, {}, None, ["over all 2 sites", "while no site works with it, whether it follows"]),
        (3, {}, None, ["at most 1 site works with it, whether it"]),
        (
            10,
            {"threshold": 5},
            None,
            ["at most 4 sites work with it and", "5 of 10 sites, no more than half"],
        ),
        (10, {"confirm": False}, None, ["at most 6 sites work with it and it follows", "confirm = false"]),
        (1, {}, None, ["hides nothing here"]),
        # All mask with all: for a hundred sites, and for 150 with two thirds.
        (100, {"threshold": 90}, None, ["at most 89 sites work with it and", "at most 79 sites work"]),
        (150, {}, None, ["at most 100 sites work with it and", "at most 51 sites work"]),
        # Masks are sparse: a tenth, or those that the job names.
        (
            1000,
            {"threshold": 900},
            None,
            ["at most 100 sites work with it, whether it follows", "but for a probability of 2^-40"],
        ),
        (1000, {"threshold": 900, "colluding": 150}, None, ["at most 150 sites work with it, whether"]),
        (
            1000,
            {"threshold": 900, "confirm": False},
            None,
            ["at most 899 sites work with it and it follows"],
        ),
    ],
)
def test_masks_are_said_to_hold_against_so_many_sites(
    cohort: int, aggregation: dict[str, object], min_survivors: int | None, said: list[str]
) -> None:
    text = told(
        cohort, aggregation=aggregation, federation={"min_sites": min_survivors} if min_survivors else {}
    )
    assert "not masked" not in text
    for words in said:
        assert words in text


@pytest.mark.parametrize("aggregation", [{"threshold": 5}, {"confirm": False}])
def test_nothing_is_promised_against_a_lying_coordinator_that_masks_do_not_stop(
    aggregation: dict[str, object],
) -> None:
    text = told(aggregation=aggregation)
    assert "One that does not could" in text
    assert "whether it follows" not in text
    assert "If it does not" not in text


def test_what_the_coordinator_reads_without_masks() -> None:
    assert "reads each site’s noisy update" in told(aggregation={"kind": "none"})
    text = told(aggregation={"kind": "none"}, privacy={"mechanism": "none"})
    assert "reads each site’s update" in text
    assert "ε" not in text


def test_homomorphic_sums_are_said_to_hold_against_no_site_at_all() -> None:
    text = told(aggregation={"kind": "homomorphic"})
    assert "any one of them, working with the coordinator, could decrypt another’s update" in text
    assert "masked" not in text


def test_a_whole_site_is_not_called_an_example(tmp_path: Path) -> None:
    privacy: dict[str, object] = {"unit": "site", "mechanism": "skellam"}
    job = make_job(aggregation={"kind": "masks"}, privacy=privacy)
    text = told(privacy=privacy)
    assert "ε is for all of a site’s examples together" in text
    assert "while no site tells the coordinator its own" in text
    assert "at most 2 sites tell" in told(privacy=privacy, aggregation={"colluding": 2})
    page = render_report(make_run(tmp_path / "run", job))
    meaning = page.partition('id="meaning"')[2].partition("</section>")[0]
    assert "any one site’s update" in meaning
    assert "one example" not in meaning
    assert "local steps" not in page.partition('id="epsilon"')[2].partition("</section>")[0]


def test_an_update_without_noise_of_its_own_is_not_called_noisy() -> None:
    text = told(aggregation={"kind": "none"}, privacy={"unit": "site", "noise": "central"})
    assert "reads each site’s update" in text
    assert "noisy" not in text


@pytest.mark.parametrize(("how", "what"), [("masks", "every sum"), ("none", "every update")])
def test_a_coordinator_that_adds_the_noise_is_said_to_be_trusted(how: str, what: str) -> None:
    job = make_job(aggregation={"kind": how}, privacy={"unit": "site", "noise": "central"})
    records = [make_record(1), make_record(2)]
    assert titles(job, records) == ["The coordinator adds the noise", "A simulation"]
    assert f"trusted with {what} before that" in notices(job, records)[0].text
    assert "in shares" not in notices(job, records)[1].text
    without = make_job(privacy={"unit": "site", "noise": "central", "mechanism": "none"})
    assert titles(without, records) == ["No privacy", "A simulation"]


# -- What travelled


def test_bytes_are_compared_with_plain_updates_and_whole_adapters(tmp_path: Path) -> None:
    """2 rounds of 2 sites: 24,600 bytes; 4 · 4 · 7,299 = 116,784 and 4 · 4 · 13,443 = 215,088."""
    page = render_report(make_run(tmp_path / "run"))
    assert (
        "The sites sent 24.6 kB in all for 4 updates: 21.1 % of the 117 kB that these take as plain "
        "float32 numbers, and 11.4 % of the 215 kB that they would take"
    ) in page


def test_only_updates_that_came_are_counted() -> None:
    facts = {"trained_parameters": 1000, "adapter_parameters": 1000}
    records = [make_record(1, bytes_up=8080), make_record(2, bytes_up=4040, absent=["south"])]
    # 3 updates of 4,000 bytes came in 12,120; the adapter has nothing frozen to compare with.
    said = "The sites sent 12.1 kB in all for 3 updates: 101.0 % of the 12.0 kB that these take as plain"
    text = traffic_sentence(records, facts) or ""
    assert text.startswith(said)
    assert "LoRA" not in text


def test_nothing_is_said_of_pairs_where_there_are_none() -> None:
    facts = {"trained_parameters": 1000, "adapter_parameters": 2000}
    assert "LoRA" in (traffic_sentence([make_record(1)], facts) or "")
    assert "LoRA" not in (traffic_sentence([make_record(1)], facts | {"pairs": False}) or "")


def test_more_than_ten_times_as_many_bytes_are_a_multiple() -> None:
    text = traffic_sentence([make_record(1, bytes_up=90_000)], {"trained_parameters": 4})
    assert text == (
        "The sites sent 90.0 kB in all for 2 updates: 2,812 times the 32 B that these take as plain "
        "float32 numbers."
    )


@pytest.mark.parametrize("records", [[], [make_record(1, absent=["north", "south"])]])
def test_without_updates_nothing_is_compared(records: list[RoundRecord]) -> None:
    assert traffic_sentence(records, {"trained_parameters": 4}) is None
    assert traffic_sentence([make_record(1)], {}) is None


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
        f'{{"round": {n}, "loss": 1.0, "measures": {{"loss": 1.0, "accuracy": 0.5}},'
        f' "epsilon": {{"north": 1.0}}, "bytes_up": 1,'
        f' "bytes_down": 1, "seconds": 1.0, "training_seconds": 0.5}}\n'
        for n in range(1, 301)
    )
    (folder.path / "rounds.jsonl").write_text("".join(lines))
    assert len(render_report(folder)) < 400_000
