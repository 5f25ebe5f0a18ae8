"""Which files a source names: one, the parts in a folder, or those of one split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.plain_text import quoted
from tasks.data.file_kinds import SUFFIXES, WORKBOOKS, kind_of
from tasks.data.package_path import locate

DATASETS_STATE, DATASETS_SPLITS = "state.json", "dataset_dict.json"
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
_PART = re.compile(r"-\d+-of-(?P<total>\d+)")  # as datasets and others number parts
_MOST_NAMED = 10


def find_files(keys: SourceKeys) -> tuple[Path, ...]:
    """The files of a source in the order in which they are read; a datasets folder stands for its own.

    Raises DataError if there are none, or if it is not plain which are meant.
    """
    if "://" in keys.source:
        raise DataError(f"data.source={keys.source!r}: expected a file or folder here: download it first")
    source = keys.source
    path = Path(locate(source))
    if path.is_file():
        if keys.split is not None and kind_of(path) != WORKBOOKS:
            raise DataError(f"data.split={keys.split!r}: expected none: {str(path)!r} is one file")
        return (path,)
    if not path.exists():
        raise DataError(f"data.source={source!r}: no such file or folder")
    if not path.is_dir():
        raise DataError(f"data.source={source!r} is neither a file nor a folder")
    return _within(path, keys.split)


def is_datasets_folder(path: Path) -> bool:
    """Whether ``datasets.Dataset.save_to_disk`` wrote it."""
    return (path / DATASETS_STATE).exists()


def _within(folder: Path, split: str | None) -> tuple[Path, ...]:
    if is_datasets_folder(folder):
        if split is not None:
            raise DataError(f"data.split={split!r}: expected none: {str(folder)!r} has no splits")
        return (folder,)
    # What Spark and others write beside the data begins so.
    entries = sorted(entry for entry in folder.iterdir() if entry.name[0] not in "._")
    folders = [entry for entry in entries if entry.is_dir() and _holds_data(entry)]
    splits_alone = (folder / DATASETS_SPLITS).exists()
    files = [] if splits_alone else [entry for entry in entries if kind_of(entry) and not entry.is_dir()]
    if not files and len(folders) == 1 and (split is None or folders[0].name not in _SPLITS):
        return _within(folders[0], split)
    if split is not None:
        return _of_split(folder, split, files=files, folders=folders)
    if files:
        splits = {name for file in files if (name := _split_of(file)) is not None}
        if len(splits) > 1 or (splits and any(_split_of(file) is None for file in files)):
            raise DataError(
                f"{str(folder)!r} has several splits: set data.split to one of {_named(splits)}"
            )
        return _parts(folder, files)
    if folders:
        names = _named(entry.name for entry in folders)
        raise DataError(f"{str(folder)!r} holds folders: set data.split to one of {names}")
    raise DataError(
        f"{str(folder)!r} is not a datasets folder and holds no files that can be read: expected "
        f"one kind of {', '.join(SUFFIXES)}"
    )


def _of_split(folder: Path, split: str, *, files: list[Path], folders: list[Path]) -> tuple[Path, ...]:
    for entry in folders:
        if entry.name == split:
            return _within(entry, None)
    chosen = [file for file in files if re.match(rf"{re.escape(split)}([-_.]|$)", file.name)]
    if not chosen:
        known = [entry.name for entry in folders] + [_split_of(file) or file.name for file in files]
        raise DataError(
            f"data.split={split!r}: {str(folder)!r} has none of that name; it has {_named(known)}"
        )
    return _parts(folder, chosen)


def _parts(folder: Path, files: list[Path]) -> tuple[Path, ...]:
    """The files, if they are whole data. Less than that would be trained on without a word."""
    absent = next((file for file in files if not file.is_file()), None)
    if absent is not None:
        raise DataError(f"{str(absent)!r} is no file, or a link to none: fetch it")
    counted = [_PART.search(file.name) for file in files]
    totals = {int(match["total"]) for match in counted if match is not None}
    if None not in counted and len(totals) == 1 and totals != {len(files)}:
        raise DataError(
            f"{str(folder)!r} has {len(files)} parts of {totals.pop()}, as their names say: fetch all"
        )
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1 or WORKBOOKS in kinds:
        names = _named(file.name for file in files)
        raise DataError(
            f"{str(folder)!r} holds several files that are not parts of one: name one of {names}"
        )
    return tuple(files)


def _holds_data(folder: Path) -> bool:
    return is_datasets_folder(folder) or any(kind_of(entry) for entry in folder.iterdir())


def _split_of(file: Path) -> str | None:
    """``train`` for ``train-00000-of-00002.parquet``; None for names that name no split."""
    word = re.match(r"[A-Za-z]+(?=[-_.\d])", file.name)
    return word[0] if word and word[0].lower() in _SPLITS else None


def _named(names: Iterable[str]) -> str:
    known = sorted(set(names))
    more = f", and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return ", ".join(map(quoted, known[:_MOST_NAMED])) + more
