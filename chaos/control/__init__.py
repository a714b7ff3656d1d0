"""The control arm: the same sale on PostgreSQL with row locks, and on the ledger beside it.

What it is for: the claim that at the peak a share of the payments times out on locked rows is only
worth something when both systems are given the same payments, the same machine and the same
deadline. Nothing here is imported by the ledger, and it knows no fault.
"""
