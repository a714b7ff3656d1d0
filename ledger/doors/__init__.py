"""The ways in from outside: a folder for each protocol that is spoken.

Knows no disk: what it reads becomes requests of the engine, what it writes are their results.
"""
