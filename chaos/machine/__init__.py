"""Faults that only some machines can make: a power cut, a slow link, the OOM killer, another time.

One file for each source of faults. Each has `missing()`, which really tries what the source does
and says in one line why it cannot be done here, or None; and a class or function that gives what
is needed to start a process under the fault, as an environment or as words that go before its
command. Nothing here knows the ledger: any program can be started under any of them, and they
combine by joining their words.
"""
