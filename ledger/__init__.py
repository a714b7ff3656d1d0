"""A double-entry payment ledger to embed or to serve."""
