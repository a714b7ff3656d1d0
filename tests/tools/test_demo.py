"""The demonstration demonstrates: a short one kills its server, loses nothing and says so."""

import runpy
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


def test_a_short_demonstration(tmp_path, capfd):
    main = runpy.run_path(str(TOOL))["main"]
    assert main(tmp_path / "demo" / "book", 2.5) == 0
    text = capfd.readouterr().out
    assert "lost: 0" in text and "yes, posted and pending" in text
    assert "all is well" in text
