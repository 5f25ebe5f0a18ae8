"""Writes the data of audio.toml: what a telephone exchange says, as WAV files, a folder for each language.

Two packages of Debian's have them, in English and in Spanish by the same speaker (CC-BY-SA-3.0), and put
them into the folder that is read by default:

    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-es-wav
    python examples/phrases.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

TO = Path(__file__).with_name("phrases")
LANGUAGES = {"english": "en_US_f_Allison", "spanish": "es_MX_f_Allison"}
SILENT = "silence"  # in no language


def write(sounds: Path, to: Path) -> int:
    """Copy all that is said, as TO/LANGUAGE/NAME.wav; how many there are."""
    count = 0
    for language, folder in LANGUAGES.items():
        (to / language).mkdir(parents=True, exist_ok=True)
        for path in sorted((sounds / folder).rglob("*.wav")):
            inside = path.relative_to(sounds / folder)
            if inside.parts[0] != SILENT:
                shutil.copyfile(path, to / language / "-".join(inside.parts))
                count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sounds", type=Path, default=Path("/usr/share/asterisk/sounds"))
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    print(f"Wrote {write(chosen.sounds, chosen.to):,} sounds to {chosen.to}")
