"""Chaos: scenarios that hurt the ledger on purpose, and checks that need no trust in it.

A scenario is TOML data. A seed expands it into a plan (an explicit list of requests and faults), a
run of the plan leaves a trace, and a run that breaks an invariant leaves a file that replays and
shrinks it. The tiers differ in what is real; `chaos.sim` is the one on virtual time. Nothing here
is imported by the ledger.
"""
