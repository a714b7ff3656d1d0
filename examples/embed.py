"""A ledger inside a program: accounts, a payment, an escrow hold and its capture, a safe retry.

Run it with a directory of its own: `python examples/embed.py ./book`. Run it again: it goes on
where it ended, with everything still there.
"""

import sys

import ledger
from ledger import (
    Account,
    AccountFilter,
    AccountFilterFlags,
    Transfer,
    TransferFlags,
    TransferStatus,
)

EUR, CENTS = 978, 100  # what is counted, in its smallest unit
BANK, ALICE, SHOP = 1, 2, 3
WALLET, DEPOSIT, ORDER = 10, 20, 30  # the program's own codes


def made(results):
    """Every answer is looked at: a refusal is a status, not an exception."""
    return [TransferStatus(status).name for status in results["status"]]


def main(directory):
    with ledger.open(directory) as book:
        # An account that may not go below zero, and two that may.
        limited = ledger.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
        book.create_accounts([
            Account(id=BANK, ledger=EUR, code=WALLET),
            Account(id=ALICE, ledger=EUR, code=WALLET, flags=limited),
            Account(id=SHOP, ledger=EUR, code=WALLET),
        ])

        # A payment. The id is made once, kept with the order, and sent again after any doubt.
        deposit = Transfer(
            id=ledger.id(), debit_account_id=BANK, credit_account_id=ALICE,
            amount=50 * CENTS, ledger=EUR, code=DEPOSIT,
        )
        print("deposit:", made(book.create_transfers([deposit])))
        print("sent again:", made(book.create_transfers([deposit])))

        # Escrow: 30 are held for an hour; 25 of them are captured, the rest is free again.
        hold = Transfer(
            id=ledger.id(), debit_account_id=ALICE, credit_account_id=SHOP, amount=30 * CENTS,
            ledger=EUR, code=ORDER, flags=TransferFlags.PENDING, timeout=3600,
        )
        capture = Transfer(
            id=ledger.id(), pending_id=hold.id, amount=25 * CENTS,
            flags=TransferFlags.POST_PENDING_TRANSFER,
        )
        print("hold, capture:", made(book.create_transfers([hold, capture])))

        # More than there is: refused, and nothing has moved.
        dear = Transfer(
            id=ledger.id(), debit_account_id=ALICE, credit_account_id=SHOP, amount=10**9,
            ledger=EUR, code=ORDER,
        )
        print("too much:", made(book.create_transfers([dear])))

        # A statement: what touched the account on either side, newest first.
        both = AccountFilterFlags.DEBITS | AccountFilterFlags.CREDITS
        newest_first = AccountFilterFlags.REVERSED
        for row in book.get_account_transfers(
            AccountFilter(account_id=ALICE, limit=3, flags=both | newest_first)
        ):
            sign = "-" if ledger.int_of(row["debit_account_id"]) == ALICE else "+"
            print(f"  {row['timestamp']} {sign}{ledger.int_of(row['amount']) / CENTS:.2f}")
        [alice] = book.lookup_accounts([ALICE])
        balance = ledger.int_of(alice["credits_posted"]) - ledger.int_of(alice["debits_posted"])
        print(f"balance: {balance / CENTS:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
