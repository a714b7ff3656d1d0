"""Commands: `python -m ledger` is `ledger`."""

from ledger.commands.cli import main

if __name__ == "__main__":
    main()
