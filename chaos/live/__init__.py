"""The live tiers: the same plans, clients and judge, on a real server process and real sockets.

What lives here: real time, real sockets and the real process in the places where the sim tier has
made-up ones. It must not know what clients ask or how a history is judged: that is common to all.
"""
