"""Every record, field, code, flag, limit and error, each written once.

Knows no disk, no socket and no rule of the state machine.
"""
