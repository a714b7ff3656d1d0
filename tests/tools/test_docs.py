"""The pages say what is: what is generated is fresh, links lead somewhere, commands are commands.

A command in a page is parsed by the very parser that would run it, and must be one that a test runs
too or a target of the Makefile. What a command prints is the affair of other tests.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from chaos import catalog
from chaos.cli import main as chaos
from chaos.scenario import Refused
from ledger.commands.cli import cli
from tools import docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(page: str) -> list[list[str]]:
    """The words of each command in the sh blocks of a page."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    return found


def check(words: list[str]) -> None:
    """AssertionError or click.UsageError for what is no command of this tree."""
    if words[0] == "make":
        assert set(words[1:]) <= TARGETS, f"no such target: {words}"
        return
    if words[0] == "mkdir":
        return
    if words[:3] == ["python", "-m", "chaos"]:
        asked = chaos.commands.get(words[3])
        assert asked is not None, f"no such command: {words}"
        with asked.make_context(words[3], words[4:]) as context:
            catalog.chosen(context.params.get("names", ()))
        return
    assert words[0] == "ledger", f"neither make, chaos nor ledger: {words}"
    command = cli.commands.get(words[1])
    assert command is not None, f"no such command: {words}"
    command.make_context(words[1], list(words[2:]))
    tests = (path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    assert any(f'"{words[1]}"' in text for text in tests), f"no test runs {words[1]}"


def anchors(page: str) -> set[str]:
    """The names of a page's headings in links, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def programs(page: str) -> str:
    """The python blocks of a page as one program, each line where it is in the page."""
    lines, inside = [], False
    for line in page.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.name
)
def test_python_of_the_pages_runs(page, server, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    if "127.0.0.1:3000" in programs(text):
        text = text.replace("127.0.0.1:3000", server(tmp_path / "served").address)
    exec(compile(programs(text), str(page), "exec"), {"__name__": page.stem})


def test_what_is_generated_is_fresh() -> None:
    for tool in ("docs.py", "stubs.py"):
        run = [sys.executable, str(ROOT / "tools" / tool), "--check"]
        assert subprocess.run(run, capture_output=True, text=True).stderr == ""


def test_a_stale_page_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {tmp_path / path.name: render for path, render in docs.PAGES.items()}
    for path, render in pages.items():
        path.write_text(render().replace("128", "129"))
    monkeypatch.setattr(docs, "PAGES", pages)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    assert "data-model.md is stale" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    assert all(path.read_text() == render() for path, render in pages.items())


def test_the_reference_names_every_record_flag_and_code() -> None:
    from ledger.facts import _facts

    page, wire = docs.data_model(), docs.wire_protocol()
    for name, (_, fields, _) in _facts.layout().items():
        if name.startswith("frame_"):
            section = wire.partition(f"<!-- generated: {name} -->")[2].partition("<!-- end")[0]
        else:
            section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        rows = re.findall(r"^\| (\d+) \| (\d+) \| \S+ \| `(\w+)` \|", section, re.MULTILINE)
        assert rows == [(str(at), str(size), field) for field, _, _, at, size, _ in fields], name
    for names in _facts.statuses().values():
        assert all(f"| {value} | `{name.lower()}` |" in page for name, value, _ in names)


def test_a_mark_that_is_missing_is_seen() -> None:
    page = docs.WIRE_PROTOCOL.read_text()
    with pytest.raises(ValueError, match="no marks <!-- generated: commands -->"):
        docs.filled(page.replace("<!-- generated: commands -->", ""))


def test_prose_has_at_most_120_columns() -> None:
    """Tables, code and what was measured are as wide as they are."""
    for page in PAGES:
        text = re.sub(r"<!-- (?:measured|generated).*?<!-- end", "", page.read_text(), flags=re.S)
        text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
        long = [line for line in text.splitlines() if len(line) > 120 and line[:1] not in "|`"]
        assert not long, f"{page}: {long[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_are_commands(page: Path) -> None:
    for words in commands(page.read_text()):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "make nothing-of-the-kind",
        "python -m chaos jump",
        "python -m chaos run nothing-of-the-kind",
        "ledger serves books/main",
        "ledger serve books/main --adress 127.0.0.1:3000",
        "ledger serve books/main --address 3000",
        "curl example.org",
    ],
)
def test_what_is_no_command_is_seen(line: str) -> None:
    [words] = commands(f"Text\n\n```sh\n{line}  # why\n```\n")
    with pytest.raises((AssertionError, click.UsageError, Refused)):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} leads to {target}"
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        other = page.parent / target if target else page
        assert anchor in anchors(other.read_text()), f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(r"^[\w/-]+$", index.partition("{toctree}")[2], re.MULTILINE)
    pages = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in PAGES[1:]}
    assert sorted(listed) == sorted(pages - {"index"})
    assert all(f"({page}.md)" in index for page in listed)


def test_the_site_builds(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", str(ROOT / "docs")]
    built = subprocess.run([*run, str(tmp_path)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "internals" / "architecture.html").read_text()
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", page)
