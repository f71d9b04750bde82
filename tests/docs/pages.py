"""What stands on a page of the documentation: its fenced blocks, its links, its headings and its pictures."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from markdown.extensions.toc import slugify

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]

FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    title: str | None
    text: str
    line: int  # its first, in the page


class Link(NamedTuple):
    """A link of a page, or a picture."""

    target: str  # a path in the repository
    anchor: str  # empty for the top


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = read(page)
    return [Block(at["language"], at["title"], at["text"], text[: at.start("text")].count("\n")) for at in FENCE.finditer(text)]


def links(page: str) -> list[Link]:
    """Links within the documentation, pictures too; those to other sites are left out."""
    found = [target.partition("#") for target in LINK.findall(FENCE.sub("", read(page))) if "://" not in target]
    return [Link(resolve(page, target), anchor) for target, _, anchor in found]


def anchors(page: str) -> set[str]:
    """Where a link into the page may lead: its headings as the site's generator spells them, and the names that the API page documents."""
    text = FENCE.sub("", read(page))
    plain = [re.sub(r"`|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {slugify(heading, "-") for heading in plain} | set(re.findall(r"^::: ([\w.]+)", text, re.MULTILINE))


def pictures(page: str) -> list[tuple[str, str]]:
    """Every picture's path in the repository, with the page that it is a link to, or else the page itself."""
    found = re.finditer(r"(?P<link>\[)?!\[[^]]*\]\((?P<picture>[^)\s]+)\)(?(link)\]\((?P<page>[^)#\s]+)\))", FENCE.sub("", read(page)))
    return [(resolve(page, at["picture"]), resolve(page, at["page"] or "")) for at in found]


def resolve(page: str, target: str) -> str:
    """A link's target as a path in the repository."""
    return os.path.normpath(Path(page).parent / target) if target else page


def captions(page: str) -> dict[str, str]:
    """The paragraph below every picture, by the picture's path in the repository."""
    return {resolve(page, at[1]): at[2] for at in re.finditer(r"^!\[[^]]*\]\(([^)\s]+)\)\n\n(.+?)\n(?:\n|\Z)", read(page), re.MULTILINE | re.DOTALL)}


def commands(block: Block) -> list[list[str]]:
    """The words of every ``metabayfl`` call in a block of shell, without what the shell itself does to it."""
    lines = block.text.replace("\\\n", " ").splitlines() if block.language == "bash" else []
    calls = [re.sub(r"\s(>|2>|&|\|).*$", "", line) for line in lines if line.startswith("metabayfl ")]
    return [shlex.split(call, comments=True)[1:] for call in calls]
