"""The codec: bytes of the client protocol to records and back, without a socket or a clock.

`Codec` reads what clients sent and writes what the core answers; `ClientCodec` is the other
end. Both work on a run of frames a call: Python hands over buffers, C reads or writes each frame
without the GIL and without an object. The rules of a frame are in frame.h. This file knows no
account, session, socket or time.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, uintptr_t
from libc.string cimport memcpy, memset

from ledger.facts.record cimport (
    BATCHES_MAX, EVENTS_MAX, MESSAGE_BODY_BYTES_MAX, MESSAGE_HEADER_BYTES,
    OPERATION_GET_ACCOUNT_BALANCES, OPERATION_GET_ACCOUNT_TRANSFERS, OPERATION_LOOKUP_ACCOUNTS,
    OPERATION_LOOKUP_TRANSFERS, OPERATION_QUERY_ACCOUNTS, OPERATION_QUERY_TRANSFERS, VERDICT_REPLY,
    answer_t, arrival_t, reply_t, u8, u16, u32, u64, u128,
)
from ledger.wire.frame cimport (
    REGISTER_SIZE, frame_answer_bytes, frame_answer_fault, frame_batches_t, frame_client_t,
    frame_header_t, frame_open, frame_operation_t, frame_operations, frame_read_arrival,
    frame_read_events, frame_read_reply, frame_server_t, frame_trailer_bytes,
    frame_write_answer, frame_write_ping, frame_write_register, frame_write_request,
    frame_write_trailer,
)

cdef enum:
    RECORD_ALIGNMENT = 16  # u128 in C


# ---- buffers ------------------------------------------------------------------------------------

cdef class Buffer:
    """A contiguous buffer of Python held for the length of one call."""

    cdef Py_buffer view
    cdef u8 *at
    cdef Py_ssize_t count  # of items

    def __cinit__(self, object owner, str name, Py_ssize_t item_bytes, bint writable=False):
        memset(&self.view, 0, sizeof(self.view))
        PyObject_GetBuffer(owner, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.at = <u8 *> self.view.buf
        if item_bytes == 1:
            self.count = self.view.len
            return
        if self.view.itemsize != item_bytes:
            raise ValueError(f"{name}: items of {self.view.itemsize} bytes, not {item_bytes}")
        if item_bytes % RECORD_ALIGNMENT == 0 and <uintptr_t> self.at % RECORD_ALIGNMENT:
            raise ValueError(f"{name}: its memory does not begin at a multiple of 16")
        self.count = self.view.len // item_bytes

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

cdef void check_stretch(Buffer buffer, Py_ssize_t start, Py_ssize_t end) except *:
    if not 0 <= start <= end <= buffer.count:
        raise ValueError(f"{start}:{end} is not a stretch of a buffer of {buffer.count} bytes")
    if end > UINT32_MAX:
        raise ValueError(f"offset {end} does not fit in 32 bits")


cdef void store_u128(u128 *to, object value, str name) except *:
    cdef bytes raw
    try:
        raw = value.to_bytes(16, "little")
    except OverflowError:
        raise ValueError(f"{name}: {value} is not within 0 .. 2^128-1") from None
    memcpy(to, PyBytes_AS_STRING(raw), 16)


# ---- the server's end ---------------------------------------------------------------------------

cdef inline u64 records_to_read(const arrival_t *arrival) noexcept nogil:
    """Of a request at the most, as far as its size tells: a filter may fill a reply."""
    if arrival.verdict != VERDICT_REPLY:
        return 0
    if arrival.operation in (OPERATION_LOOKUP_ACCOUNTS, OPERATION_LOOKUP_TRANSFERS):
        return arrival.event_count
    if arrival.operation in (OPERATION_GET_ACCOUNT_TRANSFERS, OPERATION_GET_ACCOUNT_BALANCES,
                             OPERATION_QUERY_ACCOUNTS, OPERATION_QUERY_TRANSFERS):
        return <u64>arrival.event_count * EVENTS_MAX
    return 0


cdef class Codec:
    cdef frame_server_t server
    cdef readonly u64 reads

    def __cinit__(self, cluster: int, release: int, release_min: int, *, view: int = 0,
                  body_bytes_max: int = MESSAGE_BODY_BYTES_MAX):
        store_u128(&self.server.cluster, cluster, "cluster")
        self.server.release = release
        self.server.release_min = release_min
        self.server.view = view
        self.server.body_bytes_max = body_bytes_max
        if self.server.release == 0:
            raise ValueError("release: 0 is none")
        if not 1 <= self.server.body_bytes_max <= MESSAGE_BODY_BYTES_MAX:
            raise ValueError(
                f"body_bytes_max: {body_bytes_max} is not within 1 .. {MESSAGE_BODY_BYTES_MAX}")

    def parse(self, buffer, start: int, end: int, arrivals, first: int = 0,
              route: int = 0, reads_max: int = UINT32_MAX) -> tuple[int, int, int, int]:
        cdef Buffer source = Buffer(buffer, "buffer", 1)
        cdef Buffer target = Buffer(arrivals, "arrivals", sizeof(arrival_t), True)
        cdef Py_ssize_t offset = start, stop = end, begin = first, count = first
        cdef arrival_t *arrival = <arrival_t *> target.at
        cdef u8 *frames = source.at
        cdef frame_header_t header
        cdef u64 who = route, reads = 0, most = reads_max
        cdef u32 needed = 0, error = 0
        check_stretch(source, offset, stop)
        if not 0 <= begin <= target.count:
            raise ValueError(f"first: {first} of {target.count} arrivals")
        with nogil:
            while offset < stop:
                needed = MESSAGE_HEADER_BYTES
                if count == target.count or reads >= most:
                    break
                error = frame_open(
                    frames + offset, stop - offset, self.server.cluster, &header, &needed)
                if error != 0 or needed > stop - offset:
                    break
                frame_read_arrival(&self.server, frames, offset, &header, arrival + count)
                arrival[count].route = who
                reads += records_to_read(arrival + count)
                count += 1
                offset += needed
                needed = 0
        self.reads = reads
        return count - begin, offset, 0 if error else needed, error

    cdef Py_ssize_t check_answers(self, Buffer answers, Py_ssize_t count, Buffer payload,
                                  Buffer counts) except -1:
        """Bytes of all their frames; ValueError names the first that would not be lawful."""
        cdef answer_t *answer = <answer_t *> answers.at
        cdef Py_ssize_t index = 0, size = 0
        cdef const char *fault = NULL
        if not 0 <= count <= answers.count:
            raise ValueError(f"count: {count} of {answers.count} answers")
        with nogil:
            while index < count:
                fault = frame_answer_fault(answer + index, counts.at, counts.count, payload.count)
                if fault != NULL:
                    break
                size += frame_answer_bytes(answer + index)
                index += 1
        if fault != NULL:
            raise ValueError(f"answers[{index}]: {fault.decode()}")
        return size

    cdef bytes write_answers(self, const answer_t *answer, Py_ssize_t count, Py_ssize_t size,
                             Buffer payload, Buffer counts):
        cdef bytes frames = PyBytes_FromStringAndSize(NULL, size)
        cdef u8 *frame = <u8 *> PyBytes_AS_STRING(frames)
        cdef Py_ssize_t index
        with nogil:
            for index in range(count):
                frame += frame_write_answer(
                    &self.server, answer + index, payload.at, counts.at, frame)
        return frames

    def encode(self, answers, count: int, payload, counts) -> bytes:
        cdef Buffer source = Buffer(answers, "answers", sizeof(answer_t))
        cdef Buffer results = Buffer(payload, "payload", 1)
        cdef Buffer batches = Buffer(counts, "counts", sizeof(u16))
        cdef Py_ssize_t size = self.check_answers(source, count, results, batches)
        return self.write_answers(<answer_t *> source.at, count, size, results, batches)

    def encode_by_route(self, answers, count: int, payload, counts,
                        arrivals) -> list[tuple[int, bytes]]:
        cdef Buffer source = Buffer(answers, "answers", sizeof(answer_t))
        cdef Buffer results = Buffer(payload, "payload", 1)
        cdef Buffer batches = Buffer(counts, "counts", sizeof(u16))
        cdef Buffer asked = Buffer(arrivals, "arrivals", sizeof(arrival_t))
        cdef answer_t *answer = <answer_t *> source.at
        cdef arrival_t *arrival = <arrival_t *> asked.at
        cdef Py_ssize_t stop = count, begin = 0, end, size
        cdef u64 route
        cdef list parts = []
        self.check_answers(source, stop, results, batches)
        for end in range(stop):
            if answer[end].arrival >= asked.count:
                raise ValueError(f"answers[{end}]: it answers none of {asked.count} arrivals")
        while begin < stop:
            route = arrival[answer[begin].arrival].route
            end, size = begin, 0
            while end < stop and arrival[answer[end].arrival].route == route:
                size += frame_answer_bytes(answer + end)
                end += 1
            if size:
                parts.append((route, self.write_answers(
                    answer + begin, end - begin, size, results, batches)))
            begin = end
        return parts


# ---- the client's end ---------------------------------------------------------------------------

cdef class ClientCodec:
    cdef frame_client_t client

    def __cinit__(self, cluster: int, release: int):
        store_u128(&self.client.cluster, cluster, "cluster")
        self.client.release = release
        if self.client.release == 0:
            raise ValueError("release: 0 is none")

    cdef frame_client_t identify(self, object client) except *:
        cdef frame_client_t identified = self.client
        store_u128(&identified.client, client, "client")
        if identified.client == 0:
            raise ValueError("client: 0 is no client id")
        return identified

    def encode_register(self, client: int) -> bytes:
        cdef frame_client_t identified = self.identify(client)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, REGISTER_SIZE)
        frame_write_register(&identified, <u8 *> PyBytes_AS_STRING(frame))
        return frame

    def encode_ping(self, client: int, session: int, timestamp: int) -> bytes:
        cdef frame_client_t identified = self.identify(client)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, MESSAGE_HEADER_BYTES)
        frame_write_ping(&identified, session, timestamp, <u8 *> PyBytes_AS_STRING(frame))
        return frame

    def encode_request(self, client: int, session: int, number: int, parent: int, operation: int,
                       events, counts) -> bytes:
        cdef frame_client_t identified = self.identify(client)
        cdef u64 session_number = session
        cdef u32 request_number = number
        cdef u8 code = operation
        cdef u128 context
        cdef Buffer source = Buffer(events, "events", 1)
        cdef Buffer batches = Buffer(counts, "counts", sizeof(u16))
        cdef const frame_operation_t *shape = &frame_operations[code]
        cdef frame_batches_t found
        cdef Py_ssize_t body_bytes
        cdef bytes frame
        cdef u8 *body
        cdef bint fits
        store_u128(&context, parent, "parent")
        if session_number == 0 or request_number == 0:
            raise ValueError(f"session {session} and number {number} begin at 1")
        if shape.event_bytes == 0:
            raise ValueError(f"operation: {operation} is none")
        if not 1 <= batches.count <= BATCHES_MAX:
            raise ValueError(f"counts: {batches.count} batches are not within 1 .. {BATCHES_MAX}")
        body_bytes = source.count + frame_trailer_bytes(batches.count, shape.event_bytes)
        if body_bytes > MESSAGE_BODY_BYTES_MAX:
            raise ValueError(f"events: {source.count} bytes are more than one request holds")
        frame = PyBytes_FromStringAndSize(NULL, MESSAGE_HEADER_BYTES + body_bytes)
        body = <u8 *> PyBytes_AS_STRING(frame) + MESSAGE_HEADER_BYTES
        with nogil:
            memcpy(body, source.at, source.count)
            frame_write_trailer(
                body + source.count, shape.event_bytes, batches.at, batches.count)
            fits = frame_read_events(body, body_bytes, shape, &found)
            if fits:
                frame_write_request(&identified, session_number, request_number, context, code,
                                    body_bytes, body - MESSAGE_HEADER_BYTES)
        if not fits:
            raise ValueError(
                f"counts: they do not add up to {source.count} bytes of events, or the results "
                "might not fit in one reply, or a batch is not exactly one filter")
        return frame

    def parse_replies(self, buffer, start: int, end: int, replies) -> tuple[int, int, int, int]:
        cdef Buffer source = Buffer(buffer, "buffer", 1)
        cdef Buffer target = Buffer(replies, "replies", sizeof(reply_t), True)
        cdef Py_ssize_t offset = start, stop = end, count = 0
        cdef reply_t *out = <reply_t *> target.at
        cdef u8 *frames = source.at
        cdef frame_header_t header
        cdef reply_t reply
        cdef u32 needed = 0, error = 0
        check_stretch(source, offset, stop)
        with nogil:
            while offset < stop:
                needed = MESSAGE_HEADER_BYTES
                if count == target.count:
                    break
                error = frame_open(
                    frames + offset, stop - offset, self.client.cluster, &header, &needed)
                if error != 0 or needed > stop - offset:
                    break
                error = frame_read_reply(
                    self.client.release, frames, offset, &header, &reply)
                if error != 0:
                    break
                out[count] = reply
                count += 1
                offset += needed
                needed = 0
        return count, offset, 0 if error else needed, error
