"""`python -m chaos.mutants`: the table of mutants; see cli.py for what it offers."""

from chaos.mutants.cli import main

if __name__ == "__main__":
    main()
