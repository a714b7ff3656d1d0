"""The sim tier: core, codec, door, engine and LMDB are real; time, network and threads are not.

Everything happens in one thread on virtual time, and every choice is drawn from the seed by name,
so the same plan gives the same trace, byte for byte.
"""
