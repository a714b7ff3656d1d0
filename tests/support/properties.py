"""How the property tests of this tree draw their examples: the one place that decides it.

What lives here: settings that every machine and property begins with. A run is the same on every
machine and draws nothing by chance, unless LEDGER_HYPOTHESIS=random is set: then each run searches
elsewhere, and what fails prints a blob that repeats it. No database of examples is kept, and no
example has a deadline: this machine may be busy. It knows nothing of what is tested.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

RANDOM = os.environ.get("LEDGER_HYPOTHESIS") == "random"


def bounded(examples: int, steps: int = 50) -> settings:
    """So many examples, each of at most so many steps where a machine takes steps."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=not RANDOM,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],  # how fast is not what is judged
    )
