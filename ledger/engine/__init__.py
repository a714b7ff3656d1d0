"""One order for all requests: the core, the journal and the history tied together.

Knows no socket, and no thread or clock of its own: both are handed to it.
"""
