"""Benchmarks of core, journal, codec and socket path: they report figures and judge none.

`make bench` measures; the test suite runs each of them once, so that none rots. What they do is
checked, how long it takes is not.
"""
