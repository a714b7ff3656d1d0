"""The binary protocol over sockets: connections, and frames executed in batches.

Knows no file, no account and no rule.
"""
