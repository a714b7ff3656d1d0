"""The parts of ledger/_core.pyx, in the order in which it includes them: the state machine.

They know no file, no clock and no Python object; each says what it needs and gives.
"""
