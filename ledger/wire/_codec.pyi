"""The codec of the client protocol.

Both ends work on buffers: `buffer` is any contiguous buffer of bytes, `arrivals`, `answers` and
`replies` are contiguous arrays of `schema.ARRIVAL`, `schema.ANSWER` and `schema.REPLY` whose memory
begins at a multiple of 16. Offsets in records count from the beginning of the buffer handed over.
Frames may lie at any alignment, and so may the events in them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

class Codec:
    """The server's end.

    `release` is what pongs and evictions announce, requests older than `release_min` are evicted.
    `view` is stamped on every frame, `body_bytes_max` is what register replies announce and the
    longest body taken.
    ValueError for a cluster, release or limit that the protocol cannot carry.
    """

    def __init__(
        self,
        cluster: int,
        release: int,
        release_min: int,
        *,
        view: int = 0,
        body_bytes_max: int = ...,
    ) -> None: ...
    reads: int

    def parse(
        self,
        buffer: Buffer,
        start: int,
        end: int,
        arrivals: NDArray[Any],
        first: int = 0,
        route: int = 0,
        reads_max: int = ...,
    ) -> tuple[int, int, int, int]:
        """Read the whole frames in buffer[start:end], as many as arrivals[first:] holds, and none
        behind the one with which they have `reads_max` records to read, or more.

        `route` is set in each. `reads` says afterwards how many records the arrivals have to read
        at the most: each id looked up is one, each filter EVENTS_MAX. Returns (count, consumed,
        needed, error). `count` arrivals were filled; `consumed` is the offset after the last.
        `needed` is the length of the frame that begins there, 256 while its header is not known, 0
        when nothing is left: call again at once when that much is there already (it stopped
        before), else when it has arrived. `error` is 0 or a `schema.WireError`: answer the
        arrivals, then close the connection.

        The verdict of an arrival is REPLY (a request for the core), EVICT with its reason, PONG,
        or DROP. ValueError when the stretch is not inside the buffer or ends beyond 32 bits.
        """

    def encode(
        self,
        answers: NDArray[Any],
        count: int,
        payload: NDArray[np.uint8],
        counts: NDArray[np.uint16],
    ) -> bytes:
        """The frames of answers[:count] with verdict REPLY, EVICT or PONG, one after the other.

        A reply's results are payload[payload_offset:][:payload_bytes] and its batches' result
        counts counts[counts_offset:][:batch_count]; a register reply needs neither.
        ValueError names the first answer that would not be a lawful frame; then nothing is made.
        """

    def encode_by_route(
        self,
        answers: NDArray[Any],
        count: int,
        payload: NDArray[np.uint8],
        counts: NDArray[np.uint16],
        arrivals: NDArray[Any],
    ) -> list[tuple[int, bytes]]:
        """As encode, apart for each run of answers whose arrivals have one route: (route, frames).

        `arrivals` are what the answers' `arrival` counts. A run without a frame is left out.
        """

class ClientCodec:
    """A client's end. Ids, contexts and numbers are plain integers.

    ValueError for a number the protocol cannot carry, OverflowError for one that does not fit.
    """

    def __init__(self, cluster: int, release: int) -> None: ...
    def encode_register(self, client: int) -> bytes:
        """The frame that opens a session. Its first 16 bytes are the request's checksum."""

    def encode_ping(self, client: int, session: int, timestamp: int) -> bytes:
        """A ping; `timestamp` is the client's own clock in ns and comes back in the pong."""

    def encode_request(
        self,
        client: int,
        session: int,
        number: int,
        parent: int,
        operation: int,
        events: Buffer,
        counts: NDArray[np.uint16],
    ) -> bytes:
        """A request. `counts` says how many of `events` each batch has, in order.

        `parent` is the context of the last reply. The first 16 bytes of the frame are the
        request's checksum. ValueError when the counts and the events do not agree, or when the
        request or the most it could be answered does not fit in one frame.
        """

    def parse_replies(
        self, buffer: Buffer, start: int, end: int, replies: NDArray[Any]
    ) -> tuple[int, int, int, int]:
        """Read the whole frames in buffer[start:end], as many as `replies` holds.

        Returns (count, consumed, needed, error) as `Codec.parse` does. The verdict of a reply is
        REPLY, EVICT, PONG, or DROP for a frame that must be ignored. Left to the caller is what
        needs the session: client, request checksum, number, operation and batch count against the
        request in flight.
        """
