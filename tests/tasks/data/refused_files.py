"""Files that are refused, and the sentence that says why and what to do."""

from __future__ import annotations

import gzip
import json
import lzma

from tests.tasks.data.read_files import (
    ROWS,
    SEPARATED,
    FileCase,
    as_arrow,
    as_parquet,
    delimited,
    folder,
    lines,
    raw,
    saved,
    table,
    text,
    workbook,
)

_NOT_WHOLE = "'FILE' cannot be read: it is damaged, or was not written whole"
_QUOTES = (
    'a quoted cell does not close, or goes on after it has; quotes in quoted cells are written twice: ""'
)
_CELLS = "put cells in quotes that have a separator or a line end in them"
_JSON = "expected an object a line, or one array of objects"
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

REFUSED: tuple[FileCase, ...] = (
    FileCase(what="nothing in it", name="a.csv", write=raw(b""), said="'FILE' is empty"),
    FileCase(
        what="nothing in it, packed", name="a.csv.gz", write=raw(gzip.compress(b"")), said="'FILE' is empty"
    ),
    FileCase(
        what="a header alone",
        name="header.csv",
        write=text("text,label\n"),
        said="data.source='FILE' has no rows",
    ),
    FileCase(
        what="no such column",
        name="other.csv",
        write=text("Text,label\nsecret,yes\n"),
        said="data.text='text': the data has no such column; it has Text, label; did you mean 'Text'?",
    ),
    FileCase(
        what="a separator that is not told",
        name="semi.csv",
        write=text("text;label\nsecret;yes\n"),
        said="data.text='text': the data has no such column; it has text;label; if its cells stand between "
        'other characters, set data.separator = ";"',
    ),
    FileCase(
        what="the same in quotes",
        name="quoted.csv",
        write=text(delimited(";")),
        said=f"'FILE': the header: {_QUOTES}; if its cells stand between other characters, set "
        'data.separator = ";"',
    ),
    FileCase(
        what="two columns of one name, which is used",
        name="twice.csv",
        write=text("text,label,text\nsecret,yes,secret\n"),
        said="data.text='text': the data has 2 columns of that name: rename one",
    ),
    FileCase(
        what="a row of too few cells",
        name="short.csv",
        write=text("text,label\nsecret,yes\nsecret\n"),
        said=f"'FILE': row 2: expected 2 cells as in the header, got 1; {_CELLS}",
    ),
    FileCase(
        what="a row of too many",
        name="long.csv",
        write=text("text,label\nsecret, and more,yes\n"),
        said=f"'FILE': row 1: expected 2 cells as in the header, got 3; {_CELLS}",
    ),
    FileCase(
        what="a quote that does not close",
        name="open.csv",
        write=text('text,label\nsecret,yes\n"secret,no\nsecret,no\n'),
        said=f"'FILE': row 2: {_QUOTES}",
    ),
    FileCase(
        what="quotes after a backslash",
        name="escaped.csv",
        write=text('text,label\n"the \\"secret\\" day",no\n'),
        said=f"'FILE': row 1: {_QUOTES}",
    ),
    FileCase(
        what="an empty cell, where rows must be whole",
        name="gap.csv",
        write=text("text,label\nsecret,yes\n ,no\n"),
        said="data: row 2 has no value: nothing is there (1 in all); correct such rows or remove them "
        "from the "
        "data",
    ),
    FileCase(
        what="bytes of another encoding, where rows must be whole",
        name="odd.csv",
        write=raw(b"text,label\nsecret \xe9,yes\n"),
        said="data: row 1 has no value: column 'text' cannot be decoded by data.encoding='utf-8' (1 in "
        "all); "
        "correct such rows or remove them from the data",
    ),
    FileCase(
        what="UTF-16 that is not told",
        name="wide.csv",
        write=text(delimited(), "utf-16"),
        said="'FILE' is UTF-16: set data.encoding='utf-16'",
    ),
    FileCase(
        what="UTF-16 without its mark",
        name="wide.jsonl",
        write=text(lines(), "utf-16-le"),
        said="'FILE' is UTF-16-LE: set data.encoding='utf-16-le'",
    ),
    FileCase(
        what="UTF-8 where another is told",
        name="mark.csv",
        write=text(delimited(), "utf-8-sig"),
        keys={"encoding": "latin-1"},
        said="'FILE' is UTF-8: set data.encoding='utf-8'",
    ),
    FileCase(
        what="no encoding",
        name="a.jsonl",
        write=text(lines()),
        keys={"encoding": "nonsense"},
        said="data.encoding='nonsense': expected an encoding of text, such as utf-8",
    ),
    FileCase(
        what="an encoding in which rows reach into one another",
        name="shifts.csv",
        write=text(delimited()),
        keys={"encoding": "iso-2022-jp"},
        said=(
            "data.encoding='iso-2022-jp': in it what one row holds decides how others are read: write the "
            "file as utf-8 first"
        ),
    ),
    FileCase(
        what="zero bytes alone, as after a crash",
        name="zeros.csv",
        write=raw(bytes(4096)),
        said="'FILE' begins with zero bytes alone: it was not written whole",
    ),
    FileCase(
        what="a zero byte in a text, where rows must be whole",
        name="zero.csv",
        write=text("text,label\nsec\0ret,yes\n"),
        said="data: row 1 has no value: column 'text' holds a zero byte (1 in all); correct such rows or "
        "remove them from the data",
    ),
    FileCase(
        what="really gzip",
        name="really.csv",
        write=raw(gzip.compress(delimited().encode())),
        said="'FILE' is compressed by gzip: add .gz to its name",
    ),
    FileCase(
        what="really Parquet",
        name="parquet.csv",
        write=raw(as_parquet(table())),
        said="'FILE' is a Parquet file: name it .parquet",
    ),
    FileCase(
        what="really a workbook",
        name="book.csv",
        write=raw(b"PK\x03\x04\x14\0\6\0"),
        said="'FILE' is a zip archive or a workbook: unpack it, or name a workbook .xlsx",
    ),
    FileCase(
        what="Excel's old form",
        name="old.xlsx",
        write=raw(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        said="'FILE' is an old Excel file, or a protected one: save it as .xlsx or .csv",
    ),
    FileCase(
        what="no longer packed",
        name="plain.csv.gz",
        write=text(delimited()),
        said=_NOT_WHOLE,
    ),
    FileCase(
        what="cut off, packed by xz",
        name="a.csv.xz",
        write=raw(lzma.compress(b"text,label\nsecret,no\n" * 99)[:-20]),
        said=_NOT_WHOLE,
    ),
    FileCase(
        what="damaged, packed by xz",
        name="a.csv.xz",
        write=raw(b"\xfd7zXZ\0secret"),
        said=_NOT_WHOLE,
    ),
    FileCase(
        what="cut off, packed",
        name="cut.csv.gz",
        write=raw(gzip.compress(delimited().encode())[:-12]),
        said=_NOT_WHOLE,
    ),
    FileCase(
        what="a web page",
        name="page.jsonl",
        write=text("\n<!DOCTYPE html><html>secret"),
        said="'FILE' is a web page: download the file itself",
    ),
    FileCase(
        what="a Git LFS pointer",
        name="pointer.parquet",
        write=raw(_POINTER),
        said="'FILE' is a Git LFS pointer: fetch the file with `git lfs pull`",
    ),
    FileCase(
        what="cut off",
        name="cut.parquet",
        write=raw(as_parquet(table())[:-40]),
        said=_NOT_WHOLE,
    ),
    FileCase(
        what="text in a .parquet",
        name="text.parquet",
        write=text(delimited()),
        said="'FILE' is no Parquet, whatever its name says",
    ),
    FileCase(what="cut off", name="cut.arrow", write=raw(as_arrow(table())[:-40]), said=_NOT_WHOLE),
    FileCase(
        what="chat messages",
        name="chat.parquet",
        write=raw(as_parquet(table([{"text": [{"role": "user", "content": "secret"}], "label": "yes"}]))),
        said="data.text='text': the column holds lists of messages: join each into one text first",
    ),
    FileCase(
        what="chat messages",
        name="chat.jsonl",
        write=text(lines([{"text": [{"role": "user", "content": "secret"}], "label": "yes"}])),
        said="data.text='text': the column holds lists of messages: join each into one text first",
    ),
    FileCase(
        what="lists of words",
        name="words.parquet",
        write=raw(as_parquet(table([{"text": ["secret"], "label": "yes"}]))),
        said="data.text='text': the column holds lists: join each into one text first",
    ),
    FileCase(
        what="objects",
        name="object.jsonl",
        write=text(lines([{"text": {"en": "secret"}, "label": "yes"}])),
        said="data.text='text': the column holds objects: write the field that is meant as a column of "
        "its own",
    ),
    FileCase(
        what="a list among texts, where rows must be whole",
        name="mixed.jsonl",
        write=text(lines([ROWS[0], {"text": ["secret"], "label": "yes"}])),
        said="data: row 2 has no value: column 'text' holds a list, and no text (1 in all); correct "
        "such rows "
        "or remove them from the data",
    ),
    FileCase(
        what="half of a surrogate pair, where rows must be whole",
        name="half.jsonl",
        write=text(lines([{"text": "secret \ud800", "label": "yes"}])),
        said="data: row 1 has no value: column 'text' holds half of a surrogate pair, which is no "
        "character "
        "(1 in all); correct such rows or remove them from the data",
    ),
    FileCase(
        what="a key that a row has twice",
        name="double.jsonl",
        write=text('{"text": "secret", "text": "secret", "label": "yes"}\n'),
        said="data: row 1 has no value: column 'text' is written twice (1 in all); correct such rows or "
        "remove "
        "them from the data",
    ),
    FileCase(
        what="a line that is cut off",
        name="cut.jsonl",
        write=text(lines() + '{"text": "secret'),
        said=f"'FILE': line 5, character 10 is no JSON (Unterminated string starting at): {_JSON}",
    ),
    FileCase(
        what="an object over several lines",
        name="object.json",
        write=text(json.dumps({"data": ROWS}, indent=1)),
        said="'FILE': line 1, character 2 is no JSON (Expecting property name enclosed in double quotes): "
        f"{_JSON}",
    ),
    FileCase(
        what="lists in place of objects",
        name="lists.json",
        write=text('[["secret", "yes"]]'),
        said=f"'FILE': row 1 is no object: {_JSON}",
    ),
    FileCase(
        what="another kind of file",
        name="notes.docx",
        write=raw(b"secret"),
        said="'FILE': expected a name that ends in one of .csv, .tsv, .jsonl, .ndjson, .json, .ts, "
        ".parquet, .arrow, "
        ".feather, .xlsx; text also packed, as in .csv.gz, .csv.zst, .csv.bz2, .csv.xz",
    ),
    FileCase(
        what="a separator where there is none",
        name="a.parquet",
        write=raw(as_parquet(table())),
        keys=SEPARATED,
        said="data.separator: expected none: 'FILE' is no CSV file",
    ),
    FileCase(
        what="a split of one file",
        name="one.csv",
        write=text(delimited()),
        keys={"split": "train"},
        said="data.split='train': expected none: 'FILE' is one file",
    ),
    FileCase(
        what="sheets, none of which is named",
        name="sheets.xlsx",
        write=workbook("Old", "Notes"),
        said="'FILE' has several sheets: set data.split to one of 'Old', 'Notes'",
    ),
    FileCase(
        what="splits, none of which is named",
        name="splits",
        write=folder(train__csv=text(delimited()), test__csv=text(delimited())),
        said="'FILE' has several splits: set data.split to one of 'test', 'train'",
    ),
    FileCase(
        what="a split that is not there",
        name="train-alone",
        write=folder(train__csv=text(delimited())),
        keys={"split": "test"},
        said="data.split='test': 'FILE' has none of that name; it has 'train'",
    ),
    FileCase(
        what="a DatasetDict, no split of which is named",
        name="dict",
        write=folder(dataset_dict__json=text('{"splits": ["train"]}'), train=saved(), test=saved()),
        said="'FILE' holds folders: set data.split to one of 'test', 'train'",
    ),
    FileCase(
        what="files that are not parts of one",
        name="several",
        write=folder(a__csv=text(delimited()), b__jsonl=text(lines())),
        said="'FILE' holds several files that are not parts of one: name one of 'a.csv', 'b.jsonl'",
    ),
    FileCase(
        what="a part that is missing",
        name="fetched-in-part",
        write=folder(**{"train-00000-of-00002__parquet": raw(as_parquet(table()))}),
        said="'FILE' has 1 parts of 2, as their names say: fetch all",
    ),
    FileCase(
        what="a part that is a link to nothing",
        name="unfetched",
        write=folder(a__csv=text(delimited()), b__csv=lambda path: path.symlink_to("nothing")),
        said="'FILE/b.csv' is no file, or a link to none: fetch it",
    ),
    FileCase(
        what="parts with other columns",
        name="uneven",
        write=folder(a__csv=text(delimited()), b__csv=text("text,mood\nsecret,yes\n")),
        said="'FILE/b.csv' has 0 columns named 'label', and 'a.csv' one: expected the same columns in "
        "all parts "
        "of a data set",
    ),
    FileCase(
        what="a folder of something else",
        name="photos",
        write=folder(a__jpg=raw(b"secret")),
        said="'FILE' is not a datasets folder and holds no files that can be read: expected one kind of "
        ".csv, "
        ".tsv, .jsonl, .ndjson, .json, .ts, .parquet, .arrow, .feather, .xlsx",
    ),
    FileCase(
        what="a state.json that is cut off",
        name="cut-state",
        write=folder(state__json=text('{"_data_files": [')),
        said="'FILE/state.json' was not written whole, as a JSON object: save the folder again",
    ),
    FileCase(
        what="a state.json without files",
        name="no-files",
        write=saved(_data_files=None),
        said="'FILE/state.json' names no data files: save the folder again",
    ),
    FileCase(
        what="data that state.json names and are not there",
        name="gone",
        write=saved(_data_files=[{"filename": "gone.arrow"}]),
        said="'FILE' lacks 'gone.arrow', or it is empty: save the folder again",
    ),
    FileCase(
        what="a selection of rows that are not there",
        name="beyond",
        write=saved(
            _data_files=[{"filename": "data.arrow", "skip": 0, "take": 2}],
            _indices_data_files=[{"filename": "indices.arrow"}],
        ),
        said="'FILE': its selection names rows that it lacks: save it again",
    ),
    FileCase(
        what="nothing of that name",
        name="missing.csv",
        write=lambda path: None,
        said="data.source='FILE': no such file or folder",
    ),
)
