"""Writes the data of pictures-words.toml: 6,000 icons as PNG files, and a table of their names.

They are Tabler's (MIT), from an npm package:

    npm pack @tabler/icons-png@3.48.0
    python examples/icons.py tabler-icons-png-3.48.0.tgz
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
import tomllib
from pathlib import Path

from PIL import Image, ImageOps

from tasks.data.caption_vectors import plain_caption

JOB = Path(__file__).with_name("pictures-words.toml")
TO = Path(__file__).with_name("icons")
SIZE = 96


def write(archive: Path, to: Path) -> int:
    """Write icons, white on black, and icons.csv; how many. Those of the job's bank are in public/."""
    public = {plain_caption(name) for name in tomllib.loads(JOB.read_text("utf-8"))["data"]["bank"]}
    rows = []
    with tarfile.open(archive) as packed:
        for member in sorted(packed.getmembers(), key=lambda one: one.name):
            path = Path(member.name)
            file = packed.extractfile(member)
            if path.suffix != ".png" or file is None:
                continue
            caption = plain_caption(path.stem) + (" filled" if path.parent.name == "filled" else "")
            name = f"{path.parent.name}-{path.name}"
            inked = Image.open(io.BytesIO(file.read())).convert("RGBA").getchannel("A")
            folder = to / "public" if caption in public else to
            folder.mkdir(parents=True, exist_ok=True)
            ImageOps.contain(inked, (SIZE, SIZE), Image.Resampling.BOX).save(folder / name)
            if caption not in public:
                rows.append([name, caption])
    with (to / "icons.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["path", "caption"], *rows])
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    print(f"Wrote {write(chosen.archive, chosen.to):,} icons to {chosen.to}")
