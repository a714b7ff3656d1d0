"""Commands: `python -m ledger` is `ledger`, and imports no more than it from where it is called."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]  # Python put it there; what is imported from here on is not meant by it

    from ledger.cli import main

    main()
