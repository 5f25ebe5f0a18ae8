"""What a site keeps of a run: the same for a round that is asked again, whole after any kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site_memory import SiteMemory


def values(memory: SiteMemory, number: int) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in memory.before(number).items()}


def kept(value: float) -> dict[str, np.ndarray]:
    return {"local": np.full(2, value, np.float32)}


def test_a_round_starts_from_what_the_last_one_left(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path / "local" / "run.safetensors")
    assert memory.before(1) == {}
    memory.keep(kept(1.0), round_number=1)
    assert values(memory, 2) == values(memory, 7) == {"local": [1.0, 1.0]}


@given(rounds=st.lists(st.integers(1, 4), max_size=12))
def test_a_round_that_is_asked_again_starts_from_the_same(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[int]
) -> None:
    """Against a model that keeps the two states in plain variables; another object reads the same file."""
    path = tmp_path_factory.mktemp("home") / "run.safetensors"
    last, before, after = 0, {}, {}
    for count, number in enumerate(rounds):
        start = after if number > last else before if number == last else {}
        memory = SiteMemory(path, flush=False)
        assert values(memory, number) == start
        memory.keep(kept(count), round_number=number)
        last, before, after = number, start, {"local": [float(count)] * 2}


def test_a_kill_while_it_is_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SiteMemory(tmp_path / "run.safetensors")
    memory.keep(kept(1.0), round_number=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.keep(kept(2.0), round_number=2)
    assert values(SiteMemory(tmp_path / "run.safetensors"), 2) == {"local": [1.0, 1.0]}


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_damaged_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    memory = SiteMemory(path)
    assert memory.before(3) == {}
    memory.keep(kept(3.0), round_number=3)
    assert values(memory, 4) == {"local": [3.0, 3.0]}


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path / "local" / "run.safetensors")
    memory.keep(kept(1.0), round_number=1)
    assert (tmp_path / "local").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "local" / "run.safetensors").stat().st_mode & 0o777 == 0o600
