"""TOML files that people write, in any editor, and what is told of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.custody.policy import read_policy
from privacy.errors import JobError, PolicyFileError, UserError
from protocol.job.job_file import read_job_file
from protocol.toml_file import parse_toml, read_toml
from server.provisioning.federation_file import read_federation_file

DEEP = b"x = " + b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize(
    "content",
    [b"[a]\nb = 1\n", b"\xef\xbb\xbf[a]\nb = 1\n", b"[a]\r\nb = 1\r\n", b"[a]\rb = 1\r", b"[a]\nb = 1"],
    ids=["plain", "byte order mark", "Windows", "carriage returns", "no last line end"],
)
def test_what_editors_write_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    assert read_toml(path) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = 1\n".encode("utf-16"), "it is no text in UTF-8, from byte 1 on"),
        (b"# caf\xe9\n", "it is no text in UTF-8, from byte 6 on"),
        (b"a = 1\na = 2\n", "it is not TOML: Cannot overwrite a value"),
        (b"\0", "it is not TOML: Invalid statement"),
        (DEEP, "its lists or tables lie in one another too deeply"),
    ],
    ids=["UTF-16", "Latin-1", "a key twice", "a zero byte", "deep"],
)
def test_each_file_that_is_none_is_told_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_toml(path)
    for read, error in (
        (read_job_file, JobError),
        (read_policy, PolicyFileError),
        (read_federation_file, UserError),
    ):
        with pytest.raises(error, match=f"^[^\n]*cannot read the .*{path}: {words}[^\n]*$"):
            read(path)


def test_a_value_on_the_command_line_that_is_deep_is_a_text() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        parse_toml(DEEP.decode())
