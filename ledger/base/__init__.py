"""Memory, tables, sorting, files and threads, with no word of a ledger in them.

Imports nothing of the other rooms.
"""
