/* Frames: the messages of the client protocol, read and written in place.
 *
 * Here live the rules a frame must keep, whose fields are in frame_fields.h, and the code that
 * verifies, judges and seals one frame. Plain pointers in, plain records out; every pointer to
 * bytes may be unaligned. A frame is never trusted before its check: the header's before its length
 * is used, the body's before the body is read. The server's codec and the load generator share this
 * file. It knows records and checks; it knows no session, no account, no buffer but the one it is
 * given, no socket and no clock.
 */
#ifndef LEDGER_FRAME_H
#define LEDGER_FRAME_H

#include "base/aegis.h"
#include "facts/frame_fields.h"
#include "facts/record.h"

typedef struct {
    frame_common_t common;
    union {
        frame_ping_t ping;
        frame_pong_t pong;
        frame_request_t request;
        frame_reply_t reply;
        frame_eviction_t eviction;
    };
} frame_header_t;
_Static_assert(sizeof(frame_header_t) == MESSAGE_HEADER_BYTES, "a header is two halves of 128");

enum {
    CHECKSUM_BYTES = 16,
    REGISTER_BODY_BYTES = 256,
    REGISTER_SIZE = MESSAGE_HEADER_BYTES + REGISTER_BODY_BYTES,
    REGISTER_REPLY_SIZE = MESSAGE_HEADER_BYTES + sizeof(frame_register_reply_t),
    /* Below are the numbers of a cluster's own housekeeping; of those a client sends register. */
    OPERATIONS_MIN = 128,
    EVICTION_REASON_MAX = EVICT_SESSION_RELEASE_MISMATCH,
};

/* ---- what the operations carry ------------------------------------------------------------ */

#define AS_RECORD_BYTES(name, ctype, LIST, bytes, doc) RECORD_BYTES_##name = (bytes),
enum { RECORDS(AS_RECORD_BYTES) RECORD_BYTES_id = ID_BYTES };

typedef struct {
    u32 event_bytes; /* 0 for a number that is no operation */
    u32 result_bytes;
    u32 single; /* each batch is exactly one filter, and its limit bounds the results */
} frame_operation_t;

#define AS_FRAME_OPERATION(name, number, event, result, single, creates, doc) \
    [number] = {RECORD_BYTES_##event, RECORD_BYTES_##result, single},
static const frame_operation_t frame_operations[256] = {OPERATIONS(AS_FRAME_OPERATION)};

enum { FILTER_LIMIT_FROM_END = 8 };
_Static_assert(offsetof(account_filter_t, limit) + FILTER_LIMIT_FROM_END ==
                   sizeof(account_filter_t), "one rule finds the limit of both filters");
_Static_assert(offsetof(query_filter_t, limit) + FILTER_LIMIT_FROM_END ==
                   sizeof(query_filter_t), "one rule finds the limit of both filters");

/* ---- the trailer of a body of several batches --------------------------------------------- */

static inline u16 frame_u16(const u8 *at) {
    u16 value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline u32 frame_u32(const u8 *at) {
    u32 value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* In memory: 0xFF filler, count of the last batch ... count of batch 1, number of batches. */
static inline u32 frame_trailer_bytes(u32 batch_count, u32 element_bytes) {
    return (2 * batch_count + 2 + element_bytes - 1) / element_bytes * element_bytes;
}

/* `counts`: u16 of batch 1, 2, ... in order, at any alignment. */
static inline void frame_write_trailer(u8 *trailer, u32 element_bytes, const u8 *counts,
                                       u32 batch_count) {
    const u32 bytes = frame_trailer_bytes(batch_count, element_bytes);
    const u16 last = (u16)batch_count;
    memset(trailer, 0xff, bytes - 2 * batch_count - 2);
    for (u32 batch = 1; batch <= batch_count; batch++)
        memcpy(trailer + bytes - 2 - 2 * batch, counts + 2 * (batch - 1), 2);
    memcpy(trailer + bytes - 2, &last, 2);
}

typedef struct {
    u32 batch_count;
    u32 element_count; /* in all batches */
    u32 payload_bytes;
    u32 batches_offset; /* of the count of batch 1, from the beginning of the body */
} frame_batches_t;

/* Whether the trailer is whole and accounts for every byte before it. */
static inline int frame_read_trailer(const u8 *body, u32 body_bytes, u32 element_bytes,
                                     frame_batches_t *batches) {
    if (body_bytes < 2) return 0;
    const u32 batch_count = frame_u16(body + body_bytes - 2);
    if (batch_count == 0 || batch_count > BATCHES_MAX) return 0;
    const u32 trailer_bytes = frame_trailer_bytes(batch_count, element_bytes);
    if (trailer_bytes > body_bytes) return 0;
    const u8 *counts = body + body_bytes - 2 - 2 * batch_count;
    for (const u8 *filler = body + body_bytes - trailer_bytes; filler < counts; filler++)
        if (*filler != 0xff) return 0;
    u64 sum = 0;
    for (u32 batch = 0; batch < batch_count; batch++) sum += frame_u16(counts + 2 * batch);
    batches->batch_count = batch_count;
    batches->element_count = (u32)sum;
    batches->payload_bytes = body_bytes - trailer_bytes;
    batches->batches_offset = body_bytes - 4;
    return sum * element_bytes == batches->payload_bytes;
}

/* The same for a request, whose results must also fit in one reply whatever they turn out to be. */
static inline int frame_read_events(const u8 *body, u32 body_bytes,
                                    const frame_operation_t *operation,
                                    frame_batches_t *batches) {
    const u32 event_bytes = operation->event_bytes;
    if (!frame_read_trailer(body, body_bytes, event_bytes, batches)) return 0;
    u64 results = batches->element_count;
    if (operation->single) {
        results = 0;
        for (u32 batch = 0; batch < batches->batch_count; batch++) {
            if (frame_u16(body + batches->batches_offset - 2 * batch) != 1) return 0;
            const u8 *filter_end = body + event_bytes * (batch + 1);
            const u32 limit = frame_u32(filter_end - FILTER_LIMIT_FROM_END);
            results += limit < EVENTS_MAX ? limit : EVENTS_MAX;
        }
    }
    const u32 trailer_bytes = frame_trailer_bytes(batches->batch_count, operation->result_bytes);
    return results * operation->result_bytes + trailer_bytes <= MESSAGE_BODY_BYTES_MAX;
}

/* ---- verify and seal ---------------------------------------------------------------------- */

static inline u128 frame_header_check(const void *header) {
    return aegis_of(aegis_best(), (const u8 *)header + CHECKSUM_BYTES,
                    MESSAGE_HEADER_BYTES - CHECKSUM_BYTES);
}

static inline u128 frame_body_check(const u8 *frame, u32 size) {
    return aegis_of(aegis_best(), frame + MESSAGE_HEADER_BYTES, size - MESSAGE_HEADER_BYTES);
}

/* 0, or the error that ends a connection: nothing after it can be trusted. Copies the header. */
static inline u32 frame_verify_header(const u8 *frame, u128 cluster, frame_header_t *header) {
    memcpy(header, frame, sizeof *header);
    if (header->common.checksum != frame_header_check(header)) return FRAME_ERROR_HEADER_CHECK;
    if (header->common.size < MESSAGE_HEADER_BYTES) return FRAME_ERROR_SIZE;
    if (header->common.size > MESSAGE_BYTES_MAX) return FRAME_ERROR_SIZE;
    return header->common.cluster == cluster ? 0 : FRAME_ERROR_CLUSTER;
}

static inline u32 frame_verify_body(const u8 *frame, const frame_header_t *header) {
    if (header->common.checksum_body == frame_body_check(frame, header->common.size)) return 0;
    return FRAME_ERROR_BODY_CHECK;
}

/* The frame at the beginning of `bytes`, as far as it has arrived. `needed` becomes the length it
 * is known to have; the frame is whole, and verified, when that is no more than `bytes`. */
static inline u32 frame_open(const u8 *frame, size_t bytes, u128 cluster, frame_header_t *header,
                             u32 *needed) {
    *needed = MESSAGE_HEADER_BYTES;
    if (bytes < MESSAGE_HEADER_BYTES) return 0;
    const u32 error = frame_verify_header(frame, cluster, header);
    if (error) return error;
    *needed = header->common.size;
    if (bytes < header->common.size) return 0;
    return frame_verify_body(frame, header);
}

/* The common half of an outgoing header; the rest is zero. */
static inline void frame_begin(frame_header_t *header, u128 cluster, u32 size, u32 release,
                               u8 command) {
    memset(header, 0, sizeof *header);
    header->common.cluster = cluster;
    header->common.size = size;
    header->common.release = release;
    header->common.command = command;
}

/* Checks of a frame whose body is in place, then its header before it. */
static inline void frame_seal(u8 *frame, frame_header_t *header) {
    header->common.checksum_body = frame_body_check(frame, header->common.size);
    header->common.checksum = frame_header_check(header);
    memcpy(frame, header, sizeof *header);
}

/* ---- rules that a header with a good check may still break -------------------------------- */

static inline int frame_zero(const void *bytes, size_t count) {
    static const u8 zeros[128];
    return memcmp(bytes, zeros, count) == 0;
}

#define FRAME_ZERO(field) frame_zero((field), sizeof(field))

static inline int frame_common_valid(const frame_common_t *common) {
    return common->checksum_padding == 0 && common->checksum_body_padding == 0 &&
           common->nonce_reserved == 0 && common->epoch == 0 && common->protocol == 0 &&
           common->release != 0 && FRAME_ZERO(common->reserved);
}

static inline int frame_request_valid(const frame_request_t *request) {
    if (request->parent_padding != 0 || request->client == 0) return 0;
    if (!FRAME_ZERO(request->padding) || !FRAME_ZERO(request->reserved)) return 0;
    if (request->operation == OPERATION_REGISTER)
        return request->parent == 0 && request->session == 0 && request->number == 0;
    return request->operation >= OPERATIONS_MIN && request->session != 0 && request->number != 0;
}

static inline int frame_reply_valid(const frame_header_t *header) {
    const frame_reply_t *reply = &header->reply;
    if (reply->request_checksum_padding != 0 || reply->context_padding != 0) return 0;
    if (!FRAME_ZERO(reply->reserved) || reply->client == 0) return 0;
    if (reply->op == 0 || reply->op != reply->commit || reply->timestamp == 0) return 0;
    if (reply->operation == OPERATION_REGISTER)
        return reply->number == 0 && header->common.size == REGISTER_REPLY_SIZE;
    return reply->number != 0;
}

/* ---- the server reads what a client sent -------------------------------------------------- */

typedef struct {
    u128 cluster;
    u32 release; /* what pongs and evictions announce */
    u32 release_min;
    u32 view;
    u32 body_bytes_max; /* what register replies announce */
} frame_server_t;

static inline void frame_evict(arrival_t *arrival, u8 reason) {
    arrival->verdict = VERDICT_EVICT;
    arrival->reason = reason;
}

static inline void frame_read_ping(const frame_server_t *server, const frame_header_t *header,
                                   arrival_t *arrival) {
    if (header->common.size != MESSAGE_HEADER_BYTES || header->ping.client == 0) return;
    if (!FRAME_ZERO(header->ping.reserved)) return;
    arrival->client = header->ping.client;
    arrival->session = header->ping.session;
    arrival->ping_timestamp = header->ping.ping_timestamp;
    if (header->common.release < server->release_min)
        return frame_evict(arrival, EVICT_CLIENT_RELEASE_TOO_LOW);
    arrival->verdict = VERDICT_PONG;
}

/* In the order of precedence of the protocol: the first rule broken decides. */
static inline void frame_read_request(const frame_server_t *server, const u8 *buffer, u32 offset,
                                      const frame_header_t *header, arrival_t *arrival) {
    const frame_request_t *request = &header->request;
    const frame_operation_t *operation = &frame_operations[request->operation];
    const u32 body_bytes = header->common.size - MESSAGE_HEADER_BYTES;
    const u32 body_offset = offset + MESSAGE_HEADER_BYTES;
    frame_batches_t batches = {0};
    if (!frame_request_valid(request)) return;
    arrival->client = request->client;
    arrival->checksum = header->common.checksum;
    arrival->parent = request->parent;
    arrival->session = request->session;
    arrival->number = request->number;
    arrival->operation = request->operation;
    if (header->common.release < server->release_min)
        return frame_evict(arrival, EVICT_CLIENT_RELEASE_TOO_LOW);
    if (body_bytes > server->body_bytes_max)
        return frame_evict(arrival, EVICT_INVALID_REQUEST_BODY_SIZE);
    if (request->operation == OPERATION_REGISTER) {
        if (body_bytes != REGISTER_BODY_BYTES)
            return frame_evict(arrival, EVICT_INVALID_REQUEST_BODY_SIZE);
    } else {
        if (operation->event_bytes == 0)
            return frame_evict(arrival, EVICT_INVALID_REQUEST_OPERATION);
        if (!frame_read_events(buffer + body_offset, body_bytes, operation, &batches))
            return frame_evict(arrival, EVICT_INVALID_REQUEST_BODY);
        arrival->batches_offset = body_offset + batches.batches_offset;
    }
    if (request->timestamp != 0) return;
    arrival->events_offset = body_offset;
    arrival->event_count = batches.element_count;
    arrival->batch_count = (u16)batches.batch_count;
    arrival->verdict = VERDICT_REPLY;
}

/* A verified frame at buffer + offset becomes an arrival; a broken rule makes the verdict drop. */
static inline void frame_read_arrival(const frame_server_t *server, const u8 *buffer, u32 offset,
                                      const frame_header_t *header, arrival_t *arrival) {
    memset(arrival, 0, sizeof *arrival);
    arrival->frame_offset = offset;
    arrival->verdict = VERDICT_DROP;
    if (!frame_common_valid(&header->common) || header->common.replica != 0) return;
    arrival->release = header->common.release;
    if (header->common.command == COMMAND_REQUEST)
        frame_read_request(server, buffer, offset, header, arrival);
    else if (header->common.command == COMMAND_PING_CLIENT)
        frame_read_ping(server, header, arrival);
}

/* ---- the server writes what the core answers ---------------------------------------------- */

/* What is wrong with a reply that must not leave, or NULL. A client that is answered wrongly may
 * end its process, so nothing is sent that has not passed here. */
static inline const char *frame_reply_fault(const answer_t *answer, const u8 *counts,
                                            size_t counts_count, size_t payload_bytes_max) {
    if (answer->client == 0) return "it has no client";
    if (answer->position == 0 || answer->timestamp == 0) return "position or timestamp is 0";
    if (answer->release == 0) return "release is 0";
    if (answer->operation == OPERATION_REGISTER)
        return answer->number == 0 ? NULL : "a register reply has number 0";
    const frame_operation_t *operation = &frame_operations[answer->operation];
    if (operation->event_bytes == 0) return "unknown operation";
    if (answer->number == 0) return "number is 0";
    if (answer->batch_count == 0 || answer->batch_count > BATCHES_MAX) return "batch count";
    if ((u64)answer->counts_offset + answer->batch_count > counts_count)
        return "batch counts end outside their buffer";
    if ((u64)answer->payload_offset + answer->payload_bytes > payload_bytes_max)
        return "payload ends outside its buffer";
    u64 sum = 0;
    for (u32 batch = 0; batch < answer->batch_count; batch++)
        sum += frame_u16(counts + 2 * ((size_t)answer->counts_offset + batch));
    if (sum * operation->result_bytes != answer->payload_bytes)
        return "batch counts do not add up to the payload";
    if ((u64)answer->payload_bytes +
            frame_trailer_bytes(answer->batch_count, operation->result_bytes) >
        MESSAGE_BODY_BYTES_MAX)
        return "longer than a message may be";
    return NULL;
}

static inline const char *frame_answer_fault(const answer_t *answer, const u8 *counts,
                                             size_t counts_count, size_t payload_bytes_max) {
    if (answer->verdict == VERDICT_REPLY)
        return frame_reply_fault(answer, counts, counts_count, payload_bytes_max);
    if (answer->verdict != VERDICT_EVICT) return NULL;
    if (answer->client == 0) return "it has no client";
    return answer->reason - 1u < EVICTION_REASON_MAX ? NULL : "unknown reason";
}

/* Bytes of the frame of an answer without fault; 0 when it makes none. */
static inline u32 frame_answer_bytes(const answer_t *answer) {
    if (answer->verdict == VERDICT_EVICT || answer->verdict == VERDICT_PONG)
        return MESSAGE_HEADER_BYTES;
    if (answer->verdict != VERDICT_REPLY) return 0;
    if (answer->operation == OPERATION_REGISTER) return REGISTER_REPLY_SIZE;
    return MESSAGE_HEADER_BYTES + answer->payload_bytes +
           frame_trailer_bytes(answer->batch_count,
                               frame_operations[answer->operation].result_bytes);
}

static inline void frame_write_reply(const frame_server_t *server, const answer_t *answer,
                                     const u8 *payload, const u8 *counts, u8 *frame,
                                     frame_header_t *header) {
    u8 *body = frame + MESSAGE_HEADER_BYTES;
    header->common.release = answer->release;
    header->reply.request_checksum = answer->checksum;
    header->reply.context = (u128)answer->start_id << 64 | answer->position;
    header->reply.client = answer->client;
    header->reply.op = answer->position;
    header->reply.commit = answer->position;
    header->reply.timestamp = answer->timestamp;
    header->reply.number = answer->number;
    header->reply.operation = answer->operation;
    if (answer->operation == OPERATION_REGISTER) {
        const frame_register_reply_t limits = {.body_bytes_max = server->body_bytes_max};
        memcpy(body, &limits, sizeof limits);
        return;
    }
    memcpy(body, payload + answer->payload_offset, answer->payload_bytes);
    frame_write_trailer(body + answer->payload_bytes,
                        frame_operations[answer->operation].result_bytes,
                        counts + 2 * (size_t)answer->counts_offset, answer->batch_count);
}

/* The frame of an answer without fault into frame[0 .. frame_answer_bytes); returns its bytes. */
static inline u32 frame_write_answer(const frame_server_t *server, const answer_t *answer,
                                     const u8 *payload, const u8 *counts, u8 *frame) {
    const u32 size = frame_answer_bytes(answer);
    frame_header_t header;
    if (size == 0) return 0;
    frame_begin(&header, server->cluster, size, server->release, COMMAND_PONG_CLIENT);
    header.common.view = server->view;
    if (answer->verdict == VERDICT_REPLY) {
        header.common.command = COMMAND_REPLY;
        frame_write_reply(server, answer, payload, counts, frame, &header);
    } else if (answer->verdict == VERDICT_EVICT) {
        header.common.command = COMMAND_EVICTION;
        header.eviction.client = answer->client;
        header.eviction.reason = answer->reason;
    } else {
        header.pong.ping_timestamp = answer->ping_timestamp;
    }
    frame_seal(frame, &header);
    return size;
}

/* ---- a client writes ---------------------------------------------------------------------- */

typedef struct {
    u128 cluster;
    u128 client;
    u32 release;
} frame_client_t;

static inline void frame_write_register(const frame_client_t *client, u8 frame[REGISTER_SIZE]) {
    frame_header_t header;
    frame_begin(&header, client->cluster, REGISTER_SIZE, client->release, COMMAND_REQUEST);
    header.request.client = client->client;
    header.request.operation = OPERATION_REGISTER;
    memset(frame + MESSAGE_HEADER_BYTES, 0, REGISTER_BODY_BYTES);
    frame_seal(frame, &header);
}

static inline void frame_write_ping(const frame_client_t *client, u64 session, u64 timestamp,
                                    u8 frame[MESSAGE_HEADER_BYTES]) {
    frame_header_t header;
    frame_begin(&header, client->cluster, MESSAGE_HEADER_BYTES, client->release,
                COMMAND_PING_CLIENT);
    header.ping.client = client->client;
    header.ping.session = session;
    header.ping.ping_timestamp = timestamp;
    frame_seal(frame, &header);
}

/* A request around a body of `body_bytes`, trailer included, that is already in its place. */
static inline void frame_write_request(const frame_client_t *client, u64 session, u32 number,
                                       u128 parent, u8 operation, u32 body_bytes, u8 *frame) {
    frame_header_t header;
    frame_begin(&header, client->cluster, MESSAGE_HEADER_BYTES + body_bytes, client->release,
                COMMAND_REQUEST);
    header.request.parent = parent;
    header.request.client = client->client;
    header.request.session = session;
    header.request.number = number;
    header.request.operation = operation;
    frame_seal(frame, &header);
}

/* ---- a client reads what the server sent -------------------------------------------------- */

static inline u32 frame_read_results(u32 release, const u8 *buffer, u32 offset,
                                     const frame_header_t *header, reply_t *reply) {
    const frame_operation_t *operation = &frame_operations[header->reply.operation];
    const u32 body_offset = offset + MESSAGE_HEADER_BYTES;
    const u32 body_bytes = header->common.size - MESSAGE_HEADER_BYTES;
    frame_batches_t batches = {0};
    if (!frame_reply_valid(header)) return 0;
    if (header->common.release != release) return FRAME_ERROR_ANSWER;
    if (header->reply.operation == OPERATION_REGISTER) {
        reply->body_bytes_max = frame_u32(buffer + body_offset);
        if (reply->body_bytes_max == 0 || reply->body_bytes_max > MESSAGE_BODY_BYTES_MAX)
            return FRAME_ERROR_ANSWER;
    } else {
        if (operation->event_bytes == 0) return FRAME_ERROR_ANSWER;
        if (!frame_read_trailer(buffer + body_offset, body_bytes, operation->result_bytes,
                                &batches))
            return FRAME_ERROR_ANSWER;
        reply->batches_offset = body_offset + batches.batches_offset;
    }
    reply->client = header->reply.client;
    reply->checksum = header->reply.request_checksum;
    reply->context = header->reply.context;
    reply->position = header->reply.op;
    reply->timestamp = header->reply.timestamp;
    reply->number = header->reply.number;
    reply->operation = header->reply.operation;
    reply->payload_offset = body_offset;
    reply->payload_bytes = batches.payload_bytes;
    reply->batch_count = (u16)batches.batch_count;
    reply->verdict = VERDICT_REPLY;
    return 0;
}

/* A verified frame at buffer + offset becomes a reply; a broken rule makes the verdict drop.
 * Returns FRAME_ERROR_ANSWER when going on with this server makes no sense. */
static inline u32 frame_read_reply(u32 release, const u8 *buffer, u32 offset,
                                   const frame_header_t *header, reply_t *reply) {
    const int empty = header->common.size == MESSAGE_HEADER_BYTES;
    memset(reply, 0, sizeof *reply);
    reply->verdict = VERDICT_DROP;
    if (!frame_common_valid(&header->common)) return 0;
    reply->release = header->common.release;
    if (header->common.command == COMMAND_REPLY)
        return frame_read_results(release, buffer, offset, header, reply);
    if (header->common.command == COMMAND_PONG_CLIENT) {
        if (!empty || !FRAME_ZERO(header->pong.reserved)) return 0;
        reply->ping_timestamp = header->pong.ping_timestamp;
        reply->verdict = VERDICT_PONG;
    } else if (header->common.command == COMMAND_EVICTION) {
        const frame_eviction_t *eviction = &header->eviction;
        if (!empty || eviction->client == 0 || !FRAME_ZERO(eviction->reserved)) return 0;
        if (eviction->reason - 1u >= EVICTION_REASON_MAX) return FRAME_ERROR_ANSWER;
        reply->client = eviction->client;
        reply->reason = eviction->reason;
        reply->verdict = VERDICT_EVICT;
    }
    return 0;
}

#endif
