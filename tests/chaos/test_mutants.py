"""Tests of the mutants: each one fits this tree, and one is made, run and caught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos import scenario
from chaos.mutants import cli, patch, run, tree
from chaos.mutants.patch import Edit, Mutant, Refused
from chaos.mutants.run import Row

ROOT = Path(__file__).resolve().parents[2]
KNOWN = patch.known()


def mutant(*edits: Edit, tier: str = "sim") -> Mutant:
    return Mutant(name="one", about="a fault", tier=tier, run="swarm", edit=edits)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree of one file."""
    (tmp_path / "file.py").write_text("once\ntwice twice\n", encoding="utf-8")
    return tmp_path


def test_a_text_that_is_there_once_is_changed(small: Path) -> None:
    edits = Edit("file.py", "once", "never"), Edit("file.py", "never\n", "ever\n")
    assert patch.apply(mutant(*edits), small) == ["file.py"]
    assert (small / "file.py").read_text(encoding="utf-8") == "ever\ntwice twice\n"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit("file.py", "twice", "x"), "there 2 times, not once"),
        (Edit("file.py", "thrice", "x"), "there 0 times, not once"),
        (Edit("file.py", "", "x"), "there 0 times, not once"),
        (Edit("gone.py", "once", "x"), r"gone\.py: No such file"),
    ],
)
def test_any_other_text_is_refused_and_nothing_is_changed(
    small: Path, edit: Edit, why: str
) -> None:
    before = (small / "file.py").read_bytes()
    with pytest.raises(Refused, match=why):
        patch.apply(mutant(Edit("file.py", "once", "never"), edit), small)
    assert (small / "file.py").read_bytes() == before


@pytest.mark.parametrize("one", KNOWN, ids=[one.name for one in KNOWN])
def test_a_mutant_fits_this_tree(one: Mutant, tmp_path: Path) -> None:
    assert one.edit or one.runtime
    for edit in one.edit:
        place = tmp_path / edit.file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / edit.file, place)
    for file in patch.apply(one, tmp_path):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert text != (ROOT / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            compile(text, file, "exec")
    if one.tier == "tests":
        assert (ROOT / one.run).is_file()
    else:
        assert scenario.find(one.run).scenario.tier == one.tier


def test_a_file_with_an_unknown_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    head = '[[mutant]]\nname = "one"\nabout = "a fault"\n'
    for rest, why in (
        ('tier = "sim"\ncolour = 3\n', "colour"),
        ('tier = "sky"\n', "there is no tier 'sky'"),
        ('tier = "sim"\n', "nothing is changed"),
    ):
        path.write_text(head + rest, encoding="utf-8")
        with pytest.raises(Refused, match=why):
            patch.read(path)


def test_a_mutant_is_made_in_a_copy_and_caught_there(tmp_path: Path) -> None:
    one = next(one for one in KNOWN if one.name == "a-read-does-not-wait")
    base = tree.copy_of(ROOT, tmp_path)
    row = run.one(one, base, "mutant")
    assert row.right and row.caught and row.check == "behind-the-line", row
    assert 0 < row.broken <= row.of == row.tried == run.SEEDS["sim"][0]
    assert [path.name for path in tmp_path.iterdir()] == [base.root.name]
    control = run.one(run.controls([one])[0], base, "", control=True)
    assert control.right and not control.caught and control.broken == 0, control


def test_a_copy_that_falls_over_is_no_catch(tmp_path: Path) -> None:
    base = tree.copy_of(ROOT, tmp_path)
    edit = Edit("ledger/engine/recovery.py", "    for header, body in", "    for header, nobody in")
    row = run.one(mutant(edit), base, "mutant")
    assert (row.check, row.caught, row.right) == ("", False, False), row
    assert "NameError" in row.error


def test_only_what_includes_a_changed_file_is_built_again() -> None:
    here = tree.Tree(ROOT)
    parts = {path.stem: here._parts(path) for path in here._extensions()}
    assert {name for name, files in parts.items() if "core/batch.pxi" in files} == {"_core"}
    with_checks = {name for name, files in parts.items() if "base/aegis.h" in files}
    assert with_checks >= {"_check", "_codec"}
    assert all("facts/record.h" in files for files in parts.values())


def test_the_exit_code_says_whether_all_were_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    held, caught = Row("as it is", "sim", "swarm", control=True), Row("x", "sim", "swarm", True)
    missed, broken = Row("y", "sim", "swarm"), Row("as it is", "sim", "swarm", True, control=True)
    for rows, code in (
        ([held, caught], 0),
        ([held, caught, missed], 1),
        ([broken, caught], 1),
        ([held, Row("z", "sim", "swarm", error="fell over")], 1),
    ):
        monkeypatch.setattr(cli, "_all", lambda mutants, jobs, rows=rows: (rows, 1.0))
        result = CliRunner().invoke(cli.main, ["--json"])
        assert result.exit_code == code, result.output
        assert len(json.loads(result.output)["rows"]) == len(rows)
    assert CliRunner().invoke(cli.main, ["no-such-mutant"]).exit_code == 2


def test_the_mutants_are_listed() -> None:
    listed = CliRunner().invoke(cli.main, ["--list", "--json"])
    names = [one["name"] for one in json.loads(listed.output)["mutants"]]
    assert names == [one.name for one in KNOWN] and len(names) >= 25
    assert "a-void-releases-nothing" in CliRunner().invoke(cli.main, ["--list"]).output


def test_a_mutant_that_its_tests_die_of_is_caught(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import os\nos.kill(os.getpid(), 7)\n")

    class Dying(tree.Tree):
        def run(self, *words: str) -> tree.Ended:
            return super().run(str(tmp_path / "dies.py"))

    seen = run._tests(Dying(ROOT), "tests/api/test_ids.py")
    assert (seen.broken, seen.check, seen.what) == (1, "died", "the tests ended with SIGBUS")
