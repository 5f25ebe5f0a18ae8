"""Events by account: in order of time whatever order they come in, with gaps and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.job_file import parse_job
from tasks.data.event_columns import EventColumns
from tasks.event_sequence import TASK, recall_at
from tasks.label_outcome import LabelOutcome
from tasks.registry import checked_job
from tests.tasks.networks import EVENTS, job_table, write_events
from tests.tasks.test_network_task import adapt, make_job

COLUMNS = {key: value for key, value in EVENTS.items() if key != "length"} | {"usual_gap": 1.0}


def read(path: Path, rows: list[str], **changes: Any) -> DataSet:
    path.write_text("\n".join(["card,when,amount,spent,shop,kind", *rows]) + "\n")
    keys = COLUMNS | changes
    return read_data_set("data", DataSource(source=str(path), task="event-sequence", **keys))


def encode(data: DataSet, *, length: int) -> np.ndarray:
    columns: EventColumns = data.task.open_reader("", data.columns)
    kept = EventColumns(
        features=columns.features,
        told_after=columns.told_after,
        usual_gap=columns.usual_gap,
        length=length,
    )
    return kept.encode(data.rows.contents)


def test_accounts_are_examples_with_their_last_events_in_order_of_time(tmp_path: Path) -> None:
    data = read(
        tmp_path / "a.csv",
        [
            "b,5,4,1,fuel,odd",
            "a,3,2,4,food,usual",
            "a,0,0,4,fuel,odd",
            "b,5,nan,2,books,usual",
            "a,4,9,4,,odd",
            ",3,1,1,food,odd",
            "b,noon,1,1,food,odd",
        ],
    )
    assert len(data) == 2
    assert data.rows.labels == ("usual", "odd")
    assert data.rows.remarks[0] == "2 rows have no account or no time, and are left out"
    assert data.rows.remarks[-1] == "categories that are not declared, which count as others: 1 in 'shop'"
    b, a = encode(data, length=4)
    assert b.shape == (4 + 2 + 4 + 2, 4)
    there, age, gap, before = a[:4]
    assert there.tolist() == [0, 1, 1, 1]
    # Four and one usual gaps before the last event, three and one after the one before: log2(1 + 3) / 16 …
    assert age.tolist() == pytest.approx([0, np.log2(5) / 16, 1 / 16, 0])
    assert gap.tolist() == pytest.approx([0, 0, 2 / 16, 1 / 16])
    assert before.tolist() == [0, 0, 1, 1]
    amount, missing = a[4:6]
    assert amount.tolist() == [0, -1, 0, 1]  # 9 is cut off at 4
    assert missing.tolist() == [0, 0, 0, 0]
    food, fuel, other, none = a[6:10]
    assert (food.tolist(), fuel.tolist()) == ([0, 0, 1, 0], [0, 1, 0, 0])
    assert (other.tolist(), none.tolist()) == ([0, 0, 0, 0], [0, 0, 0, 1])
    # What is told after an event is read of those before the last alone.
    spent, untold = a[10:]
    assert (spent.tolist(), untold.tolist()) == ([0, 1, 1, 0], [0, 0, 0, 1])
    # Two at one time stay as they are written.
    assert b[5].tolist() == [0, 0, 0, 1]
    assert b[8].tolist() == [0, 0, 0, 1]
    cut = encode(data, length=2)[1]
    assert np.array_equal(cut, a[:, 2:])


def test_an_account_is_known_by_its_name_whatever_events_are_added_to_it(tmp_path: Path) -> None:
    one = read(tmp_path / "a.csv", ["a,0,1,1,food,odd", "b,0,1,1,food,odd"])
    grown = read(tmp_path / "b.csv", ["b,0,1,1,food,odd", " a ,9,2,1,fuel,usual", "a,0,1,1,food,odd"])
    assert grown.digests == one.digests[::-1]
    assert len(set(one.digests)) == 2


def test_columns_and_times_may_be_written_in_any_way(tmp_path: Path) -> None:
    one = read(tmp_path / "a.csv", ["a,0,1,1,food,odd", "a,1970-01-01T00:00:09,2,1,fuel,odd"])
    other = read(tmp_path / "b.csv", ["a,9,2.0,1, fuel ,odd", "a,-0.0,1,1.00,food,odd"])
    assert one.rows.contents == other.rows.contents


def test_accounts_without_events_or_without_a_label_at_the_last_are_blank(tmp_path: Path) -> None:
    data = read(
        tmp_path / "a.csv",
        ["a,0,1,1,food,odd", "b,never,1,1,food,odd", "c,1,1,1,food,", "c,0,1,1,food,odd"],
    )
    assert data.blank == {
        "no content, or none that can be read": (1,),
        "no label, or one that is not declared": (1, 2),
    }


def test_moments_at_the_ends_of_time_are_numbers_all_the_same(tmp_path: Path) -> None:
    data = read(tmp_path / "a.csv", ["a,-1e308,1,1,food,odd", "a,1e308,1,1,food,odd"], usual_gap=1e-9)
    assert encode(data, length=2)[0][1:3].tolist() == [[1, 0], [0, 1]]


def test_places_without_an_event_do_not_matter(tmp_path: Path) -> None:
    adapted = adapt(make_job("event-sequence", tmp_path))
    adapted.load(adapted.some_adapter(0))
    model = adapted.peft.eval()
    values = torch.from_numpy(TASK.made_up(adapted, np.random.default_rng(0), np.ones(3)).arrays["values"])
    values[:, :, :2] = 0
    logits = model(values)
    assert logits.isfinite().all()
    values[:, 1:, :2] = 5.0  # where channel 0 says that nothing is there
    torch.testing.assert_close(model(values), logits)
    assert model(torch.zeros_like(values)).isfinite().all()  # a blank row


def test_focal_loss_is_cross_entropy_times_what_is_missing(tmp_path: Path) -> None:
    path = write_events(tmp_path / "data.csv")
    plain, focal = (
        adapt(checked_job(parse_job(job_table("event-sequence", path, EVENTS | {"focal": power}))))
        for power in (0.0, 2.0)
    )
    examples = TASK.made_up(plain, np.random.default_rng(0), np.ones(4))
    for adapted in (plain, focal):
        adapted.load(adapted.some_adapter(0))
    batch = examples.batch(np.arange(4))
    nats = plain.forward(batch).losses
    missed = 1 - (-nats).exp()
    torch.testing.assert_close(focal.forward(batch).losses, missed**2 * nats)


def test_recall_at_a_share_of_alarms_is_worked_out_by_hand() -> None:
    # By their odds: 1, 0, two alike of which one is, then 0 six times.
    scores = [3.0, 2.0, 1.0, 1.0, *[-1.0] * 6]
    labels = [1, 0, 1, 0, *[0] * 6]
    logits = torch.stack([torch.zeros(10), torch.tensor(scores)], dim=1)
    sums = LabelOutcome.of(logits, torch.tensor(labels)).sums()
    assert recall_at(sums, alarms=0.1) == pytest.approx(1 / 2)
    assert recall_at(sums, alarms=0.2) == pytest.approx(1 / 2)
    assert recall_at(sums, alarms=0.3) == pytest.approx(3 / 4)  # half of the two that are alike
    assert recall_at(sums, alarms=1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entity": "amount"}, "amount: expected a column to be one of entity, time"),
        ({"time": "card"}, "card: expected a column to be one of entity, time"),
        ({"told_after": ["when"]}, "told_after: expected columns in numbers or categories, got 'when'"),
        ({"length": 0}, "data.length"),
        ({"length": 10_000}, "length: expected at most 100000 numbers"),
        ({"usual_gap": 0.0}, "data.usual_gap"),
        ({"labels": None}, "data.labels: expected the list of labels"),
        ({"labels": None, "label": None}, 'data.label: expected a column name for task="event-sequence"'),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    keys = {key: value for key, value in (EVENTS | changes).items() if value is not None}
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("event-sequence", tmp_path / "x.csv", keys)))
    assert words in str(told.value)


def test_sites_by_a_column_and_data_without_accounts_are_refused(tmp_path: Path) -> None:
    table = job_table(
        "event-sequence", tmp_path / "x.csv", EVENTS, federation={"partition": {"column": "shop"}}
    )
    with pytest.raises(JobError, match=r"federation\.partition: expected"):
        checked_job(parse_job(table))
    with pytest.raises(DataError, match=r"data\.entity='card': no row has a value there"):
        read(tmp_path / "a.csv", [",1,1,1,food,odd"])
