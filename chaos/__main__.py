"""`python -m chaos`: the command line of the scenarios; see cli.py for what it offers."""

import signal
import sys

from chaos.cli import main

if __name__ == "__main__":
    # Who is told to end puts away what it has started: servers, mounts, scratch folders.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
