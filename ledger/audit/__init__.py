"""A second opinion: balances and answers computed again from the journal alone.

Shares no rule and no table with the state machine that it judges.
"""
