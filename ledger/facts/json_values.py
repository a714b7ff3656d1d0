"""What is told as JSON: which values are strings of digits, because readers round numbers.

The rule, for every command and for ever: a value that a record keeps in 64 or 128 bits, and a sum
of such values, is a string of decimal digits (ids, amounts, balances, user data, positions, numbers
of groups and sessions, timestamps and clocks, clusters, seeds); how many there are of something,
sizes in bytes, seconds and other lengths of time, and rates are numbers. A value that cannot be
told is null. This file knows names, not where they come from.
"""

from __future__ import annotations

import json
from typing import Any

STRINGS = frozenset(
    (
        "id", "debit_account_id", "credit_account_id", "pending_id", "account_id", "burned",
        "amount", "debits_pending", "debits_posted", "credits_pending", "credits_posted",
        "held", "captured", "released", "open", "unbalanced",
        "user_data_128", "user_data_64",
        "position", "position_first", "ended_position", "group", "ended_group", "epoch",
        "client", "session", "identity", "checksum", "cluster", "seed",
        "timestamp", "transfer_timestamp_min", "transfer_timestamp_max", "wall",
        "clock_ns", "clock_before", "clock_after",
    )
)  # fmt: skip

COUNTS = frozenset(("records", "holds"))  # of each kind of record, whose names are fields', too


def exact(value: Any, name: str = "") -> Any:
    """The same facts (dicts, lists, numbers) with strings of digits where the rule has them."""
    if isinstance(value, dict):
        if name in COUNTS:
            return dict(value)
        return {key: exact(one, key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [exact(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and name in STRINGS:
        return str(value)
    return value


def line(facts: dict[str, Any]) -> str:
    """Facts as one line of JSON, in ASCII whatever a directory's name is made of."""
    return json.dumps(exact(facts))
