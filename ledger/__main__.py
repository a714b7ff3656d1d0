"""`python -m ledger` is the command `ledger`: there is nothing else here."""

from ledger.commands.cli import main

if __name__ == "__main__":
    main()
