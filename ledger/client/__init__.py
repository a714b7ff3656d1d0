"""The client: one connection to a server and the calls over it.

Knows no disk and nothing of the state machine.
"""
