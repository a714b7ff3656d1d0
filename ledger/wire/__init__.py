"""The client protocol: frames read, verified and written in place.

Knows no session, no account and no socket.
"""
