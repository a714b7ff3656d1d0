"""DIR/journal: the commit groups, the only truth, and who writes, reads and checks them.

Knows no account and no transfer but their bytes; LMDB is known here alone.
"""
