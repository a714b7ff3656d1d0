"""The `ledger` command: arguments, words on the terminal, exit codes.

Decides nothing about money.
"""
