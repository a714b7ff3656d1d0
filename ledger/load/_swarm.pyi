"""The load generator's core: see _swarm.pyx for how it works and load.py for how it is driven."""

class Swarm:
    """The sessions of one connection.

    Frames to write come back as bytes from each call that may send; times are of one monotonic
    clock, in ns. `seed`, `connection` and `connections` decide what every record looks like.
    `cluster` and `client` are 16 bytes, little-endian; the sessions' client ids count up from
    `client`. Accounts `account_first` .. `account_end` of `accounts` are created and looked up
    here. Shares are within 0 .. 1. `transfers` is how many to send, at most `transfers_max`, from
    number `first` on; `requests_per_second` 0 means whenever a session is free.
    """

    def __init__(
        self,
        *,
        cluster: bytes,
        client: bytes,
        release: int,
        sessions: int,
        batch: int,
        seed: int,
        accounts: int,
        account_first: int,
        account_end: int,
        account_flags: int,
        connection: int,
        connections: int,
        ledger: int,
        distribution: int,
        zipf_exponent: float,
        hot_share: float,
        pending_share: float,
        resolved_share: float,
        hold_seconds: int,
        duplicate_share: float,
        id_order: int,
        first: int,
        transfers: int,
        transfers_max: int,
        requests_per_second: float,
        resend_seconds: float,
    ) -> None: ...
    def connect(self, now_ns: int) -> bytes:
        """A new connection: register what is new, send again what is unanswered."""

    def disconnect(self) -> None:
        """Nothing is handed out until the next connect()."""

    def space(self) -> memoryview:
        """Where the next bytes read belong; pass their number to feed()."""

    def feed(self, count: int, now_ns: int) -> bytes:
        """Judge the replies in the next `count` bytes and give the free sessions new requests.

        Does nothing after a wire error; ValueError for more bytes than there was space.
        """

    def tick(self, now_ns: int, drained: bool) -> bytes:
        """What is due now, and, if all written bytes have left, what waited too long."""

    def begin(self, phase: int, now_ns: int) -> bytes:
        """Enter a later phase: 1 accounts, 2 transfers, 3 look up transfers, 4 look up accounts.

        ValueError unless `done`.
        """

    def stop(self) -> None:
        """Start no further transfers in this phase."""

    def give_up(self) -> None:
        """End every session that waits for a reply: its transfers are unanswered."""

    @property
    def done(self) -> bool:
        """Whether the phase has nothing left to send and nothing to wait for."""

    @property
    def error(self) -> int:
        """0, or the schema.WireError that makes this connection useless."""

    @property
    def replies(self) -> int:
        """Replies judged so far."""

    def due_in_ns(self, now_ns: int) -> int:
        """Time until the next transfer request is due, 0 when one is; -1 when none ever will be."""

    def counters(self) -> dict[str, int]:
        """Every counter by name."""

    def statuses_by_number(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Refusals of accounts and of transfers by status, and evictions by reason, as counts."""

    def take_histograms(self) -> tuple[bytes, bytes]:
        """Payments by latency, in all and since the last call: u64 for each of bucket_values()."""

    def transfer(self, number: int) -> bytes:
        """Transfer `number` of this connection as it is sent, one schema.TRANSFER record."""

def bucket_values() -> list[int]:
    """The highest latency of each bucket, in ns."""
