"""DIR/state: segments and checkpoints, derived from the journal and made again from it.

Knows no request, no session and no thread.
"""
