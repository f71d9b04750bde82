"""The error index: every class has its section, and every message on the page is what its snippet gives, raised by the class of its section."""

from __future__ import annotations

import doctest
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from metabayfl import cli, errors
from metabayfl.errors import MetabayflError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
TEXT = PAGE.read_text(encoding="utf-8")
CLASSES = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MetabayflError) and kind is not MetabayflError]
BLOCK = re.compile(r'^## (?P<heading>\w+)$|^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.REPORT_NDIFF


class Block(NamedTuple):
    """One fenced block and the section that it stands in."""

    section: str
    language: str
    title: str | None
    text: str
    line: int


def blocks() -> Iterator[Block]:
    section = ""
    for found in BLOCK.finditer(TEXT):
        section = found["heading"] or section
        if found["language"]:
            yield Block(section, found["language"], found["title"], found["text"], TEXT[: found.start()].count("\n") + 1)


def test_every_class_has_a_section_an_example_and_a_row() -> None:
    assert re.findall(r"^## (\w+)$", TEXT, re.MULTILINE) == list(dict.fromkeys(re.findall(r"─ (\w+Error)", errors.__doc__ or "")))
    assert sorted(re.findall(r"^## (\w+)$", TEXT, re.MULTILINE)) == sorted(CLASSES)
    for name, kin in re.findall(r"^\| \[(\w+)\]\(#\w+\) \| `(\w+)` \|", TEXT, re.MULTILINE):
        assert getattr(errors, name).__mro__[2].__name__ == kin
    assert {block.section for block in blocks() if block.language in ("console", "pycon")} == set(CLASSES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_message_is_the_true_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABAYFL_DEBUG", "1")
    monkeypatch.setenv("METABAYFL_MALLOC", "0")  # a command would set the allocator of the whole test process
    monkeypatch.delenv("METABAYFL_DATA", raising=False)
    threads = torch.get_num_threads()
    names: dict[str, object] = {"__name__": "errors"}
    for block in blocks():
        if block.language == "toml" and block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(PAGE), "exec"), names)
        elif block.language == "bash":
            for line in block.text.splitlines():
                assert cli.main(shlex.split(line)[1:]) == 0
        elif block.language == "pycon":
            in_python(block, names)
        elif block.language == "console":
            at_the_command_line(block, capsys)
    torch.set_num_threads(threads)


def in_python(block: Block, names: dict[str, object]) -> None:
    found = doctest.DocTestParser().get_doctest(block.text, names, "errors.md", str(PAGE), block.line)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(found, out=report.append, clear_globs=False)
    names.update(found.globs)
    assert not report, "".join(report)
    raised = [example.exc_msg for example in found.examples if example.exc_msg]
    assert raised
    assert all(message.startswith(f"metabayfl.errors.{block.section}: ") for message in raised)


def at_the_command_line(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for command, message in re.findall(r"^\$ (metabayfl .*)\n(error: .*)$", block.text, re.MULTILINE):
        capsys.readouterr()
        assert cli.main(shlex.split(command)[1:]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert doctest.OutputChecker().check_output(f"{message}\n", f"{lines[-1]}\n", OPTIONS), f"{command}\n{lines[-1]}"
        assert any(line.startswith(f"metabayfl.errors.{block.section}: ") for line in lines), block.section
    assert len(re.findall(r"^\$ ", block.text, re.MULTILINE)) == len(re.findall("^error: ", block.text, re.MULTILINE)) > 0
