"""``confide provision`` on the terminal, from the federation to try to its kits."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.custody.model_sources import check_models, local_source
from client.custody.site_file import read_site_file
from confide.federation_sample import EXAMPLES, HELD_OUT, write_federation_sample
from confide.provision_command import provision
from privacy.errors import UserError
from server.provisioning.federation_file import read_federation_file
from tasks.own_rows import read_own_rows
from tasks.registry import read_job, section_of

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(provision)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "try"
    write_federation_sample(folder)
    return folder


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A federation.toml without data, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "federation.toml"
    path.write_text(
        'name = "clinics"\naddress = "localhost:8443"\n[[site]]\nname = "north"\n[[site]]\nname = "south"\n'
    )
    return path


def call(*arguments: str) -> str:
    """What the command prints. Errors come out as they are raised."""
    result = CliRunner().invoke(APP, ["federation.toml", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_it_says_what_was_made_and_what_comes_next(federation: Path) -> None:
    text = call()
    assert "north        made   federation/kits/north" in text
    assert "coordinator  made   federation/coordinator" in text
    assert "confide server start federation/coordinator" in text
    assert "confide site start site.toml" in text
    assert "authority until 20" in text
    text = call()
    assert "north        here" in text
    assert "Hand each kit" not in text


def test_it_says_when_sites_need_to_know_of_others(federation: Path) -> None:
    sentence = "Each custodian who has a kit already copies federation/peers.toml into the site's home"
    assert sentence not in call()  # the kits have it
    assert sentence not in call()
    Path("federation/peers.toml").unlink()  # as an earlier version left it
    assert sentence in call()
    shutil.rmtree("federation/kits/north")
    federation.write_text(f'{federation.read_text()}[[site]]\nname = "west"\n')
    assert sentence in call()
    assert sentence not in call()
    assert sentence in call("--reissue", "north")
    assert sentence in call("--revoke", "west")


def test_it_says_what_was_handed_over_and_what_is_revoked(federation: Path) -> None:
    call()
    shutil.rmtree("federation/kits/north")
    text = call("--revoke", "south")
    assert "The kit of north was handed over; --reissue north makes one with new keys." in text
    assert "Delete federation/kits/south: its keys are revoked." in text
    assert "Bring federation.json and nodes/ of federation/coordinator to the coordinator's" in text
    assert "Bring" not in call()
    assert "north        made" in call("--reissue", "north")


def test_it_warns_before_a_certificate_ends_and_renews_it(federation: Path) -> None:
    federation.write_text("valid_days = 20\n" + federation.read_text())
    assert "Warning: the server's certificate expires on" in call()
    federation.write_text(federation.read_text().replace("= 20", "= 90"))
    text = call("--renew")
    assert "Warning" not in text
    assert "Bring server.crt of federation/coordinator to the coordinator's machine" in text


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[site.rules]\napprove = 'manual'", "site south: rules.approve: unknown key"),
        ("[site.budget]\nepsilon = 1.0", "site south: budget.delta: missing"),
        ("[site.data.x]\nsource = 'x'\nlabel = 'y'", "both label and labels, or neither"),
    ],
)
def test_what_a_site_could_not_read_is_refused_before_anything_is_made(
    federation: Path, table: str, words: str
) -> None:
    federation.write_text(f"{federation.read_text()}{table}\n")
    with pytest.raises(UserError, match=words):
        call()
    assert not Path("federation").exists()


def test_the_federation_to_try_can_be_provisioned_and_its_data_read(sample: Path, tmp_path: Path) -> None:
    arguments = [str(sample / "federation.toml"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(APP, arguments, catch_exceptions=False).exit_code == 0
    job = read_job(sample / "job.toml")
    held_out = read_own_rows(job)
    assert len(held_out) == HELD_OUT
    seen = set(held_out.contents)
    assert job.federation.min_sites == 2
    for entry in read_federation_file(sample / "federation.toml").site:
        site = read_site_file(tmp_path / "out" / "kits" / entry.name / "site.toml")
        # Nothing is loaded there that the table does not name.
        assert local_source(job.model, site.models) == job.model.source
        check_models(site.models)
        source = site.data[job.data.alias].source
        data = job.data.model_copy(update={"source": source})
        table = read_own_rows(job.model_copy(update={"data": data}))
        assert len(table) == EXAMPLES
        assert set(table.labels or ()) == set(section_of(job).classes)
        # No text is at two sites, or held out and trained on.
        assert not seen & set(table.contents)
        seen |= set(table.contents)
        with Path(source).open(newline="", encoding="utf-8") as file:
            assert [row["text"] for row in csv.DictReader(file)] == list(table.contents)
        assert job.privacy.epsilon <= (site.budget.epsilon_per_run or 0)


def test_the_federation_to_try_is_written_once_and_without_torch(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        write_federation_sample(sample)
    code = (
        "import sys; from pathlib import Path\n"
        "from confide.federation_sample import write_federation_sample\n"
        f"write_federation_sample(Path({str(tmp_path / 'again')!r}))\n"
        "print(sorted({'torch', 'flwr', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"
    for name in ("job.toml", "data/north.csv", "data/held-out.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (sample / name).read_bytes()
