"""Written by tools/stubs.py from the C tables, as schema.py builds them: do not edit."""

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

def packer(record: np.dtype[np.void]) -> struct.Struct:
    """A record as a tuple of its fields in their order: numbers, and bytes for what is longer."""

ID: np.dtype[np.void]
ACCOUNT: np.dtype[np.void]
TRANSFER: np.dtype[np.void]
CREATE_RESULT: np.dtype[np.void]
ACCOUNT_FILTER: np.dtype[np.void]
QUERY_FILTER: np.dtype[np.void]
ACCOUNT_BALANCE: np.dtype[np.void]
GROUP_HEADER: np.dtype[np.void]
RUN: np.dtype[np.void]
START: np.dtype[np.void]
SESSION: np.dtype[np.void]
SESSION_EVICTED: np.dtype[np.void]
REQUEST: np.dtype[np.void]
BATCH: np.dtype[np.void]
OUTCOME: np.dtype[np.void]
RESOLUTION: np.dtype[np.void]
BURNED_ID: np.dtype[np.void]
ARRIVAL: np.dtype[np.void]
ANSWER: np.dtype[np.void]
REPLY: np.dtype[np.void]
RECORDS: dict[str, np.dtype[np.void]]

class AccountFlags(enum.IntFlag):
    """Bits, to be combined with |.

    LINKED: succeeds or fails with the next event of the batch
    DEBITS_MUST_NOT_EXCEED_CREDITS: debits, holds included, stay within credits posted
    CREDITS_MUST_NOT_EXCEED_DEBITS: credits, holds included, stay within debits posted
    HISTORY: its balances after each transfer can be asked for
    IMPORTED: comes from elsewhere with its own timestamp
    CLOSED: takes no transfer but the void of a hold
    """

    NONE = 0
    LINKED = 1
    DEBITS_MUST_NOT_EXCEED_CREDITS = 2
    CREDITS_MUST_NOT_EXCEED_DEBITS = 4
    HISTORY = 8
    IMPORTED = 16
    CLOSED = 32

class TransferFlags(enum.IntFlag):
    """Bits, to be combined with |.

    LINKED: succeeds or fails with the next event of the batch
    PENDING: opens a hold: moves only the pending balances
    POST_PENDING_TRANSFER: resolves a hold by moving all or part of it
    VOID_PENDING_TRANSFER: resolves a hold by releasing it
    BALANCING_DEBIT: moves at most what the debit account has
    BALANCING_CREDIT: moves at most what the credit account owes
    CLOSING_DEBIT: closes the debit account until the hold is voided or expires
    CLOSING_CREDIT: closes the credit account until the hold is voided or expires
    IMPORTED: comes from elsewhere with its own timestamp
    """

    NONE = 0
    LINKED = 1
    PENDING = 2
    POST_PENDING_TRANSFER = 4
    VOID_PENDING_TRANSFER = 8
    BALANCING_DEBIT = 16
    BALANCING_CREDIT = 32
    CLOSING_DEBIT = 64
    CLOSING_CREDIT = 128
    IMPORTED = 256

class AccountFilterFlags(enum.IntFlag):
    """Bits, to be combined with |.

    DEBITS: transfers that debit the account
    CREDITS: transfers that credit the account
    REVERSED: newest first
    """

    NONE = 0
    DEBITS = 1
    CREDITS = 2
    REVERSED = 4

class QueryFilterFlags(enum.IntFlag):
    """Bits, to be combined with |.

    REVERSED: newest first
    """

    NONE = 0
    REVERSED = 1

class AccountStatus(enum.IntEnum):
    CREATED = 4294967295
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    IMPORTED_EVENT_EXPECTED = 22
    IMPORTED_EVENT_NOT_EXPECTED = 23
    TIMESTAMP_MUST_BE_ZERO = 3
    IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE = 24
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE = 25
    RESERVED_FIELD = 4
    RESERVED_FLAG = 5
    ID_MUST_NOT_BE_ZERO = 6
    ID_MUST_NOT_BE_INT_MAX = 7
    EXISTS_WITH_DIFFERENT_FLAGS = 15
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 16
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 17
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 18
    EXISTS_WITH_DIFFERENT_LEDGER = 19
    EXISTS_WITH_DIFFERENT_CODE = 20
    EXISTS = 21
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 8
    DEBITS_PENDING_MUST_BE_ZERO = 9
    DEBITS_POSTED_MUST_BE_ZERO = 10
    CREDITS_PENDING_MUST_BE_ZERO = 11
    CREDITS_POSTED_MUST_BE_ZERO = 12
    LEDGER_MUST_NOT_BE_ZERO = 13
    CODE_MUST_NOT_BE_ZERO = 14
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS = 26

class TransferStatus(enum.IntEnum):
    CREATED = 4294967295
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    IMPORTED_EVENT_EXPECTED = 56
    IMPORTED_EVENT_NOT_EXPECTED = 57
    TIMESTAMP_MUST_BE_ZERO = 3
    IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE = 58
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE = 59
    RESERVED_FLAG = 4
    ID_MUST_NOT_BE_ZERO = 5
    ID_MUST_NOT_BE_INT_MAX = 6
    EXISTS_WITH_DIFFERENT_FLAGS = 36
    EXISTS_WITH_DIFFERENT_PENDING_ID = 40
    EXISTS_WITH_DIFFERENT_TIMEOUT = 44
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID = 37
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID = 38
    EXISTS_WITH_DIFFERENT_AMOUNT = 39
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 41
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 42
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 43
    EXISTS_WITH_DIFFERENT_LEDGER = 67
    EXISTS_WITH_DIFFERENT_CODE = 45
    EXISTS = 46
    ID_ALREADY_FAILED = 68
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 7
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 8
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 9
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 10
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 11
    ACCOUNTS_MUST_BE_DIFFERENT = 12
    PENDING_ID_MUST_BE_ZERO = 13
    PENDING_ID_MUST_NOT_BE_ZERO = 14
    PENDING_ID_MUST_NOT_BE_INT_MAX = 15
    PENDING_ID_MUST_BE_DIFFERENT = 16
    TIMEOUT_RESERVED_FOR_PENDING_TRANSFER = 17
    CLOSING_TRANSFER_MUST_BE_PENDING = 64
    LEDGER_MUST_NOT_BE_ZERO = 19
    CODE_MUST_NOT_BE_ZERO = 20
    DEBIT_ACCOUNT_NOT_FOUND = 21
    CREDIT_ACCOUNT_NOT_FOUND = 22
    ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER = 23
    TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS = 24
    PENDING_TRANSFER_NOT_FOUND = 25
    PENDING_TRANSFER_NOT_PENDING = 26
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID = 27
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID = 28
    PENDING_TRANSFER_HAS_DIFFERENT_LEDGER = 29
    PENDING_TRANSFER_HAS_DIFFERENT_CODE = 30
    EXCEEDS_PENDING_TRANSFER_AMOUNT = 31
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = 32
    PENDING_TRANSFER_ALREADY_POSTED = 33
    PENDING_TRANSFER_ALREADY_VOIDED = 34
    PENDING_TRANSFER_EXPIRED = 35
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS = 60
    IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT = 61
    IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT = 62
    IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO = 63
    DEBIT_ACCOUNT_ALREADY_CLOSED = 65
    CREDIT_ACCOUNT_ALREADY_CLOSED = 66
    OVERFLOWS_DEBITS_PENDING = 47
    OVERFLOWS_CREDITS_PENDING = 48
    OVERFLOWS_DEBITS_POSTED = 49
    OVERFLOWS_CREDITS_POSTED = 50
    OVERFLOWS_DEBITS = 51
    OVERFLOWS_CREDITS = 52
    OVERFLOWS_TIMEOUT = 53
    EXCEEDS_CREDITS = 54
    EXCEEDS_DEBITS = 55

class JournalKind(enum.IntEnum):
    START = 1
    SESSION = 2
    SESSION_EVICTED = 3
    REQUEST = 4
    BATCH = 5
    ACCOUNT = 6
    TRANSFER = 7
    RESOLUTION = 8
    BURNED_ID = 9
    OUTCOME = 10

class HoldOutcome(enum.IntEnum):
    POSTED = 1
    VOIDED = 2
    EXPIRED = 3

class Verdict(enum.IntEnum):
    REPLY = 1
    EVICT = 2
    PONG = 3
    DROP = 4
    RESEND = 5

class EvictionReason(enum.IntEnum):
    NO_SESSION = 1
    CLIENT_RELEASE_TOO_LOW = 2
    CLIENT_RELEASE_TOO_HIGH = 3
    INVALID_REQUEST_OPERATION = 4
    INVALID_REQUEST_BODY = 5
    INVALID_REQUEST_BODY_SIZE = 6
    SESSION_TOO_LOW = 7
    SESSION_RELEASE_MISMATCH = 8

class Command(enum.IntEnum):
    PING_CLIENT = 3
    PONG_CLIENT = 4
    REQUEST = 5
    REPLY = 8
    EVICTION = 18

class WireError(enum.IntEnum):
    HEADER_CHECK = 1
    BODY_CHECK = 2
    SIZE = 3
    CLUSTER = 4
    ANSWER = 5

class Operation(enum.IntEnum):
    REGISTER = 2
    LOOKUP_ACCOUNTS = 140
    LOOKUP_TRANSFERS = 141
    GET_ACCOUNT_TRANSFERS = 142
    GET_ACCOUNT_BALANCES = 143
    QUERY_ACCOUNTS = 144
    QUERY_TRANSFERS = 145
    CREATE_ACCOUNTS = 146
    CREATE_TRANSFERS = 147

TRANSIENT: frozenset[TransferStatus]

class Shape(NamedTuple):
    event: np.dtype[np.void]
    result: np.dtype[np.void]
    single: bool
    creates: bool

SHAPES: dict[Operation, Shape]

class Account(msgspec.Struct):
    """An account and its balances.

    id: u128 -- unique in the book; neither 0 nor 2^128-1
    debits_pending: u128 -- sum of open holds that debit the account
    debits_posted: u128 -- sum of posted transfers that debit the account
    credits_pending: u128 -- sum of open holds that credit the account
    credits_posted: u128 -- sum of posted transfers that credit the account
    user_data_128: u128 -- the application's own; 0 when unused
    user_data_64: u64 -- the application's own; 0 when unused
    user_data_32: u32 -- the application's own; 0 when unused
    ledger: u32 -- what is counted (a currency); transfers stay inside one; not 0
    code: u16 -- the application's kind of account; not 0
    flags: u16 -- AccountFlags
    timestamp: u64 -- ns since 1970; given by the ledger; 0 in requests unless imported
    """

    id: int = 0
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0

class Transfer(msgspec.Struct):
    """A movement of money between two accounts.

    id: u128 -- unique in the book; the idempotency key; neither 0 nor 2^128-1
    debit_account_id: u128 -- account debited
    credit_account_id: u128 -- account credited
    amount: u128 -- in the ledger's smallest unit
    pending_id: u128 -- the hold that a post or void resolves; else 0
    user_data_128: u128 -- the application's own; 0 when unused
    user_data_64: u64 -- the application's own; 0 when unused
    user_data_32: u32 -- the application's own; 0 when unused
    timeout: u32 -- seconds until a hold expires; 0 for never
    ledger: u32 -- the ledger of both accounts
    code: u16 -- the application's reason for the transfer; not 0
    flags: u16 -- TransferFlags
    timestamp: u64 -- ns since 1970; given by the ledger; 0 in requests unless imported
    """

    id: int = 0
    debit_account_id: int = 0
    credit_account_id: int = 0
    amount: int = 0
    pending_id: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    timeout: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0

class CreateResult(msgspec.Struct):
    """The answer to one event.

    timestamp: u64 -- of the stored record, or when the event was judged; ns since 1970
    status: u32 -- AccountStatus or TransferStatus; created is 2^32-1
    """

    timestamp: int = 0
    status: int = 0

class AccountFilter(msgspec.Struct):
    """Which transfers or balances of one account.

    account_id: u128 -- the account whose transfers or balances are asked for
    user_data_128: u128 -- 0 for any
    user_data_64: u64 -- 0 for any
    user_data_32: u32 -- 0 for any
    code: u16 -- 0 for any
    timestamp_min: u64 -- inclusive; 0 for open
    timestamp_max: u64 -- inclusive; 0 for open
    limit: u32 -- results at most; not 0; clamped to 8,189
    flags: u32 -- AccountFilterFlags
    """

    account_id: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = 0
    flags: int = 0

class QueryFilter(msgspec.Struct):
    """Which accounts or transfers.

    user_data_128: u128 -- 0 for any
    user_data_64: u64 -- 0 for any
    user_data_32: u32 -- 0 for any
    ledger: u32 -- 0 for any
    code: u16 -- 0 for any
    timestamp_min: u64 -- inclusive; 0 for open
    timestamp_max: u64 -- inclusive; 0 for open
    limit: u32 -- results at most; not 0; clamped to 8,189
    flags: u32 -- QueryFilterFlags
    """

    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    ledger: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = 0
    flags: int = 0

class AccountBalance(msgspec.Struct):
    """An account's balances right after one transfer.

    debits_pending: u128 -- right after the transfer
    debits_posted: u128 -- right after the transfer
    credits_pending: u128 -- right after the transfer
    credits_posted: u128 -- right after the transfer
    timestamp: u64 -- of the transfer
    """

    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    timestamp: int = 0

def whole(where: str, value: object, bits: int = 128) -> int:
    """`value` as a whole number of `bits` bits. ValueError says `where` it is wrong, and how.

    Any integer is taken but True and False; for 128 bits also one row of two uint64, as `ids` makes
    them.
    """

def u128(value: int) -> tuple[int, int]:
    """The low and the high limb of `value`. ValueError outside 0 .. 2^128-1."""

def int_of(limbs: Sequence[int] | NDArray[np.uint64]) -> int:
    """The number of which `limbs` are the low and the high 64 bits. Of a column use `ints`."""

def pack_accounts(accounts: Sequence[Account]) -> NDArray[np.void]:
    """An array of ACCOUNT. ValueError names the first value that does not fit its field."""

def pack_transfers(transfers: Sequence[Transfer]) -> NDArray[np.void]:
    """An array of TRANSFER. ValueError names the first value that does not fit its field."""

def pack_account_filters(filters: Sequence[AccountFilter]) -> NDArray[np.void]:
    """An array of ACCOUNT_FILTER. ValueError names the first value that does not fit its field."""

def pack_query_filters(filters: Sequence[QueryFilter]) -> NDArray[np.void]:
    """An array of QUERY_FILTER. ValueError names the first value that does not fit its field."""

def pack_ids(ids: Sequence[int]) -> NDArray[np.void]:
    """An array of ID. ValueError names the first value outside 0 .. 2^128-1.

    A row of two uint64, low limb first, is taken for one id too.
    """

def pack_numbers(name: str, numbers: Sequence[int]) -> NDArray[np.void]:
    """As pack_ids, of what the caller calls `name`."""

def unpack_accounts(rows: NDArray[np.void]) -> list[Account]:
    """An Account for each row of an array of ACCOUNT."""

def unpack_transfers(rows: NDArray[np.void]) -> list[Transfer]:
    """A Transfer for each row of an array of TRANSFER."""

def unpack_account_balances(rows: NDArray[np.void]) -> list[AccountBalance]:
    """An AccountBalance for each row of an array of ACCOUNT_BALANCE."""

def unpack_create_results(rows: NDArray[np.void]) -> list[CreateResult]:
    """A CreateResult for each row of an array of CREATE_RESULT; `status` stays a plain number."""

def records(value: object, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """`value` as a contiguous array of `dtype`, one of ACCOUNT, TRANSFER, the filters and ID.

    Taken are an array of `dtype` (not copied when contiguous), bytes that hold whole records, one
    struct of the kind or a sequence of them, and for ID integers or an array of uint64 of shape
    (n, 2), low limb first. ValueError says what does not fit.
    """

def a(value: object) -> str:
    """What a value is, for an error."""
