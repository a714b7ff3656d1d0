"""Every limit, default and exit code, with its unit in its name.

What two limits owe each other is asserted at the bottom, so that a change that breaks the relation
does not import. Sizes that records give (a message, a request's events) come from `record.h`; this
file only repeats those Python needs before the compiled modules load, and `schema.py` proves them
equal. Nothing here knows what the limits are used for.
"""

from __future__ import annotations

import enum

# The protocol, and this software.
VERSION = "0.1.0"
RELEASE = (0 << 16) | (17 << 8) | 9  # what pongs and evictions announce: 0.17.9
RELEASE_MIN = (0 << 16) | (17 << 8)  # operations 146 and 147 exist since 0.17.0
MESSAGE_BYTES_MAX = 1 << 20
MESSAGE_HEADER_BYTES = 256
BODY_BYTES_MAX = MESSAGE_BYTES_MAX - MESSAGE_HEADER_BYTES
EVENTS_MAX = 8_189

# A group: what one durable append holds. The worst event is an imported post: transfer (128),
# resolution (48), their run headers (2 x 16), outcome (16).
EVENT_BYTES_WORST = 224
REQUEST_BYTES_WORST = EVENTS_MAX * EVENT_BYTES_WORST + 131_072 + 256
GROUP_BYTES_MAX = 2 * 1024 * 1024 - 64 * 1024  # body; header and checks fit in the rest of 2 MiB
GROUP_VALUE_BYTES_MAX = 2 * 1024 * 1024  # what a replicated log takes as one message
GROUPS_IN_FLIGHT_MAX = 3  # one open, one full, one being synced
CHECK_BLOCK_BYTES = 4096

# The journal.
MAP_BYTES = 1 << 40  # address space, not disk
DISK_RESERVE_BYTES = 2 * GROUPS_IN_FLIGHT_MAX * GROUP_VALUE_BYTES_MAX  # less: nothing is created
DISK_RESERVE_READS_BYTES = DISK_RESERVE_BYTES // 2  # less: no start, no new session
DISK_WARN_PERCENT = (70, 85, 95)
READ_TRANSACTION_SECONDS_MAX = 5.0
ONLOOKER_TRIES_MAX = 10  # of who reads a file without a lock, each in a newer snapshot
DIGEST_ASIDE_BYTES = 16 * 1024  # a body whose digest takes longer than asking a worker for it
READ_AHEAD_BYTES = 16 * 1024 * 1024  # while small groups are read in order
READ_LARGE_BYTES = 256 * 1024  # a group that is read without keeping it in the system's memory
READER_CHECK_SECONDS = 60.0
READ_SLOTS = 24  # of LMDB's reader table, that the writer keeps for its own reads
SCRUB_BYTES = 4 * 1024 * 1024  # of the journal read again at once
SCRUB_SECONDS = 1.0  # from one such step to the next
SCRUB_RETRY_SECONDS = 60.0  # from a step that failed to the next
SCRUB_REST_SECONDS = 3600.0  # from the end of a pass to the next one
HEAD_NS = 5_000_000_000  # how often the head stamp is renewed while group follows group
STAMP_REST_NS = 100_000_000  # and how soon after the last one

# The engine.
SESSIONS_MAX = 100_000
STARTS_MAX = 65_536  # of a server that are kept: what a client saw before those is believed
REPLY_BYTES_IN_FLIGHT_MAX = 64 * 1024 * 1024  # answers that wait for their group
HELD_BYTES_EACH = 512  # what holding an answer costs besides its bytes
ANSWERS_MAX = 1024  # answered in one call of the core
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024  # results of one call of the core
COUNTS_MAX = 2 * 65_536

WINDOW_EVENTS = 1 << 18  # transfers, burned ids and ends of holds in memory before they are sealed
WINDOWS_CLOSED_MAX = 3  # that wait to be sealed; then no more is taken
COLD_REQUESTS_MAX = 16  # that are being answered from the sealed past at once
COLD_LITTLE_MAX = 64  # ids of a request that is answered beside long ones
CHECKPOINT_WINDOWS_MIN = 4  # from one checkpoint to the next
CHECKPOINT_STEP_BYTES = 1 << 20  # copied at once
CHECKPOINT_BYTES_A_WINDOW = WINDOW_EVENTS * 192  # a checkpoint: half more than the journal

WAKE_NS_MAX = 3600 * 1_000_000_000
REFUSED_RETRY_NS = 100_000_000  # how often due expiries look for space again

# A book in a host's process.
CALLS_WAITING_MAX = 1024  # calls, at most a request each, that are not accepted yet
TURN_CALLS_MAX = 256  # taken up before what they did is handed to the journal
EVENTS_ALONE_MAX = 64  # of a lone call whose group is appended without another thread
PIECES_AHEAD_MAX = 8  # requests of one create_many under way at once
CLOSE_SECONDS_MAX = 5.0  # that who is interrupted waits for a book to be closed

# The clock.
CLOCK_SLEW_MAX = 0.10
CLOCK_GAP_MAX_NS = 30 * 24 * 3600 * 1_000_000_000
CLOCK_STEP_ALARM_NS = 1_000_000_000

# The binary door.
CONNECTIONS_MAX = 16_384
BACKLOG = 4_096
TURN_BUFFER_BYTES = 2 << 20  # what connections without a half arrived frame read in one turn
TURN_READ_BYTES = 1 << 16  # a larger read is executed by itself
RECEIVE_BYTES_MAX = 1 << 30  # memory of frames that have half arrived or wait, all connections
RECEIVE_BYTES_MIN = 4096  # memory for a frame that has begun; it doubles as more of it arrives
SEND_BYTES_MAX = 8 * 1024 * 1024  # replies a peer has not read, each connection
UNREAD_BYTES_MAX = 512 * 1024 * 1024  # memory of all replies; more, and no long read is executed
UNREAD_RESERVE_BYTES = 32 * 1024 * 1024  # beyond that for replies to everything else
READS_LITTLE = 64  # records that a request may read without waiting for its connection's share
READS_SHARE = EVENTS_MAX  # records that one connection reads before others have their turn
READS_A_TURN = 4 * READS_SHARE  # records read for all connections in one turn of the loop
READS_RESUMED = 4 * READS_A_TURN  # the same for who was resumed, as what it wants may be gone soon
FRAME_SECONDS_MAX = 10.0  # from the first byte of a frame to its last
SEND_SECONDS_MAX = 30.0  # a peer that reads nothing for so long is closed
IDLE_SECONDS_MAX = 120.0  # a peer that says nothing for so long is closed; clients ping at 30 s
SWEEP_SECONDS = 1.0  # how often deadlines are looked at
LOG_LINES_MAX = 20  # about peers that do wrong, from one look to the next
DRAIN_SECONDS_MAX = 5.0
START_SECONDS_MAX = 60.0  # the first group of a run, on a slow disk
POLL_SECONDS = 0.005
SWITCH_SECONDS = 0.00002  # how long a thread may keep the interpreter from another
DESCRIPTORS_KEPT = 64  # for the journal and what the interpreter opens
CONNECTIONS_MIN = 16  # fewer are not worth a server: it does not start

# Whoever calls, in process or over a socket.
WAIT_SECONDS_MAX = 1e9  # a longer timeout is for ever, and no clock of the system takes it

# Our own client.
REQUEST_SECONDS_MAX = 30.0
RESEND_SECONDS = 0.6
RECONNECT_SECONDS_MAX = 1.0
CLIENT_SESSIONS = 8


class Exit(enum.IntEnum):
    """Exit codes of the `ledger` commands."""

    OK = 0
    FAULT_FOUND = 1  # verify found a fault
    USAGE = 2
    DATA_REFUSED = 65  # format, digest, cluster, head ahead of journal
    SYSTEM = 71  # address space, memory, descriptors or threads that the system does not give
    DIRECTORY = 73  # in use, not writable or not readable
    IO_ERROR = 74
    FENCED = 75


assert REQUEST_BYTES_WORST <= GROUP_BYTES_MAX, "a request with its worst outcomes fits in a group"
assert GROUP_BYTES_MAX + GROUP_BYTES_MAX // CHECK_BLOCK_BYTES * 8 + 1024 <= GROUP_VALUE_BYTES_MAX
assert GROUP_BYTES_MAX % CHECK_BLOCK_BYTES == 0
assert BODY_BYTES_MAX // 128 - 1 == EVENTS_MAX
assert CONNECTIONS_MIN <= CONNECTIONS_MAX
assert TURN_BUFFER_BYTES >= 2 * MESSAGE_BYTES_MAX, "half of it takes the longest frame"
assert SEND_BYTES_MAX >= 2 * MESSAGE_BYTES_MAX, "a full reply can wait while one is written"
assert UNREAD_BYTES_MAX >= 16 * (SEND_BYTES_MAX + PAYLOAD_BYTES_MAX), "one peer is not too many"
assert UNREAD_RESERVE_BYTES >= 2 * PAYLOAD_BYTES_MAX, "a payment is answered beside a long read"
assert READS_RESUMED >= COLD_REQUESTS_MAX * READS_SHARE, "all that were answered at once go on"
assert READS_LITTLE < READS_SHARE <= READS_A_TURN <= READS_RESUMED
assert RECEIVE_BYTES_MIN * CONNECTIONS_MAX <= RECEIVE_BYTES_MAX // 8, "a few bytes each crowd none"
assert PAYLOAD_BYTES_MAX >= BODY_BYTES_MAX, "the results of one request fit"
assert DISK_RESERVE_READS_BYTES >= GROUPS_IN_FLIGHT_MAX * GROUP_VALUE_BYTES_MAX, "all can land"
assert DISK_RESERVE_BYTES >= 2 * DISK_RESERVE_READS_BYTES, "readers may come when creates may not"
assert REPLY_BYTES_IN_FLIGHT_MAX >= PAYLOAD_BYTES_MAX
assert CALLS_WAITING_MAX * MESSAGE_BYTES_MAX <= RECEIVE_BYTES_MAX, "no more waits than at a door"
assert TURN_CALLS_MAX <= CALLS_WAITING_MAX
assert PIECES_AHEAD_MAX > GROUPS_IN_FLIGHT_MAX, "one call alone keeps the log busy"
assert RELEASE_MIN <= RELEASE
assert STAMP_REST_NS < HEAD_NS
assert READ_LARGE_BYTES <= READ_AHEAD_BYTES, "what is read ahead holds a large group"
assert DIGEST_ASIDE_BYTES <= GROUP_BYTES_MAX
assert DISK_RESERVE_BYTES >= GROUPS_IN_FLIGHT_MAX * GROUP_VALUE_BYTES_MAX, "accepted work has room"
assert WINDOWS_CLOSED_MAX >= 1, "a window is sealed while the next one fills"
assert WINDOW_EVENTS > EVENTS_MAX, "a request does not fill windows"
assert 1 <= COLD_LITTLE_MAX <= EVENTS_MAX
assert REFUSED_RETRY_NS <= WAKE_NS_MAX
assert CLOCK_STEP_ALARM_NS < CLOCK_GAP_MAX_NS
assert TURN_READ_BYTES <= TURN_BUFFER_BYTES
assert TURN_BUFFER_BYTES <= RECEIVE_BYTES_MAX
assert min(FRAME_SECONDS_MAX, SEND_SECONDS_MAX, IDLE_SECONDS_MAX) > SWEEP_SECONDS
assert IDLE_SECONDS_MAX > 2 * 30, "a client that pings every 30 s is not idle"
assert 1 <= CLIENT_SESSIONS <= SESSIONS_MAX
assert RESEND_SECONDS < REQUEST_SECONDS_MAX < WAIT_SECONDS_MAX
assert RECONNECT_SECONDS_MAX < REQUEST_SECONDS_MAX
assert WAIT_SECONDS_MAX < 2**63 // 1_000_000_000, "every clock of the system takes it"
