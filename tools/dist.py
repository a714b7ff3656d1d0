"""Builds the source distribution and the wheel, and uses them where nothing else is installed.

The wheel is built from the source distribution, so what that lacks is noticed; the program at the
end runs in an empty folder and pays once, embedded and by the command. Two clean environments are
made in a temporary folder. About four minutes, most of them the compiler's.

    python -m tools.dist [FOLDER]       the files are left in FOLDER, dist by default
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import ledger

with ledger.open("book") as book:
    accounts = [ledger.Account(id=n, ledger=978, code=1) for n in (1, 2)]
    ledger.raise_for_status(book.create_accounts(accounts), accounts)
    payment = ledger.Transfer(
        id=ledger.id(), debit_account_id=1, credit_account_id=2, amount=5, ledger=978, code=1
    )
    ledger.raise_for_status(book.create_transfers([payment]), [payment])
    assert ledger.ints(book.lookup_accounts([1])["debits_posted"]) == [5]
print("ledger", ledger.__version__, "from", ledger.__file__)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command; SystemExit when it fails."""
    if subprocess.run(command, cwd=cwd).returncode:
        raise SystemExit(f"the distribution is not good: {' '.join(map(str, command))}")


def environment(place: Path) -> Path:
    """The folder of commands of a new, empty environment."""
    venv.create(place, with_pip=True)
    return place / "bin"


def main() -> None:
    """Build, install, use."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    with tempfile.TemporaryDirectory(prefix="ledger-dist-") as name:
        place = Path(name)
        builder = environment(place / "builder")
        run(builder / "python", "-m", "pip", "install", "--quiet", "build>=1.2,<2")
        run(builder / "python", "-m", "build", "--outdir", folder, ROOT)
        [wheel] = [path for path in folder.glob("*.whl") if path.stat().st_size]
        user = environment(place / "user")
        run(user / "python", "-m", "pip", "install", "--quiet", wheel)
        empty = place / "empty"
        empty.mkdir()
        run(user / "python", "-c", PROGRAM, cwd=empty)
        run(user / "ledger", "verify", "book", cwd=empty)
    print(f"{wheel.name} installs and pays")


if __name__ == "__main__":
    main()
