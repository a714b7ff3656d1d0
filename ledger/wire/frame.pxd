# The C of frame.h as Cython sees it: only the names that .pyx code uses.

from ledger.facts.record cimport answer_t, arrival_t, reply_t, u8, u32, u64, u128

cdef extern from "wire/frame.h" nogil:
    ctypedef struct frame_header_t:
        pass
    ctypedef struct frame_batches_t:
        pass
    ctypedef struct frame_operation_t:
        u32 event_bytes
    ctypedef struct frame_server_t:
        u128 cluster
        u32 release, release_min, view, body_bytes_max
    ctypedef struct frame_client_t:
        u128 cluster, client
        u32 release
    const frame_operation_t[256] frame_operations
    u32 frame_open(const u8 *frame, size_t count, u128 cluster, frame_header_t *header,
                   u32 *needed)
    void frame_read_arrival(const frame_server_t *server, const u8 *buffer, u32 offset,
                            const frame_header_t *header, arrival_t *arrival)
    u32 frame_read_reply(u32 release, const u8 *buffer, u32 offset, const frame_header_t *header,
                         reply_t *reply)
    const char *frame_answer_fault(const answer_t *answer, const u8 *counts, size_t counts_count,
                                   size_t payload_bytes_max)
    u32 frame_answer_bytes(const answer_t *answer)
    u32 frame_write_answer(const frame_server_t *server, const answer_t *answer,
                           const u8 *payload, const u8 *counts, u8 *frame)
    u32 frame_trailer_bytes(u32 batch_count, u32 element_bytes)
    void frame_write_trailer(u8 *trailer, u32 element_bytes, const u8 *counts, u32 batch_count)
    bint frame_read_events(const u8 *body, u32 body_bytes, const frame_operation_t *operation,
                           frame_batches_t *batches)
    void frame_write_register(const frame_client_t *client, u8 *frame)
    void frame_write_ping(const frame_client_t *client, u64 session, u64 timestamp, u8 *frame)
    void frame_write_request(const frame_client_t *client, u64 session, u32 number, u128 parent,
                             u8 operation, u32 body_bytes, u8 *frame)
    enum:
        REGISTER_SIZE, EVICTION_REASON_MAX
