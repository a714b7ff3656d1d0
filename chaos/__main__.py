"""`python -m chaos`: the command line of the scenarios; see cli.py for what it offers."""

from chaos.cli import main

if __name__ == "__main__":
    main()
