"""The load generator: sessions that pay through a server, and the report of what was seen.

Knows the wire and nothing of the server behind it.
"""
