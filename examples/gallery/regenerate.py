"""Run the gallery's scripts in full and put what they print, and their pictures, into the documentation.

    python examples/gallery/regenerate.py                 # all of them
    python examples/gallery/regenerate.py heart loans     # these

A page ``docs/gallery/NAME.md`` holds its script's output between two marks; everything else of it is written by hand. Studies go to ``runs/gallery``,
and a run that is there already is not repeated.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES, WORK = ROOT / "docs" / "gallery", ROOT / "runs" / "gallery"
NAMES = ("heart", "parkinsons", "cmapss", "activity", "handwriting", "robots", "loans")
PRINTED = re.compile(r"(?<=<!-- printed -->\n```text\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)


def printed(name: str) -> str:
    """What a script prints, without the line that names the picture."""
    words = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--out", str(WORK)]
    output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return "\n".join(line.rstrip() for line in output.partition("\npicture: ")[0].strip().splitlines()) + "\n"


def renew(name: str) -> None:
    """One page's output and picture."""
    page, output = PAGES / f"{name}.md", printed(name)
    page.write_text(PRINTED.sub(lambda _: output, page.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    shutil.copyfile(WORK / f"{name}.svg", PAGES / f"{name}.svg")
    print(f"{name}: page and picture are renewed")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        renew(chosen)
