"""Mutants: small faults put into a copy of the ledger, each of which a named tier must catch.

A harness that has never failed has shown nothing. What lives here: the faults as data, the copy
they are made in, and the table of who caught them. Nothing here changes the tree it comes from.
"""
