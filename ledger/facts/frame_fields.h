/* The fields of every frame of the client protocol, its commands and its errors.
 *
 * The lists are written as those of record.h are, and other views are built from them in the same
 * way. This file knows nothing of how a frame is checked, read or written.
 */
#ifndef LEDGER_FRAME_FIELDS_H
#define LEDGER_FRAME_FIELDS_H

#include "facts/record.h"

/* ---- the fields: F(type, name, doc), A(type, name, count, doc) as in record.h ------------- */

#define FRAME_COMMON_FIELDS(F, A)                                                              \
    F(u128, checksum, "check of the 240 bytes after it")                                          \
    F(u128, checksum_padding, "0")                                                             \
    F(u128, checksum_body, "check of the body")                                                \
    F(u128, checksum_body_padding, "0")                                                        \
    F(u128, nonce_reserved, "0")                                                               \
    F(u128, cluster, "the book's cluster id")                                                  \
    F(u32, size, "header and body; 256 to 1,048,576")                                          \
    F(u32, epoch, "0")                                                                         \
    F(u32, view, "0 from this server; what a client sends is not looked at")                   \
    F(u32, release, "patch in bits 0-7, minor 8-15, major 16-31; not 0")                       \
    F(u16, protocol, "0")                                                                      \
    F(u8, command, "Command")                                                                  \
    F(u8, replica, "0 from clients; a server's index")                                         \
    A(u8, reserved, 12, "0")

#define FRAME_PING_FIELDS(F, A)                                                                \
    F(u128, client, "client id; not 0")                                                        \
    F(u64, ping_timestamp, "the client's own clock; ns")                                       \
    F(u64, session, "session number; 0 before the client has one")                             \
    A(u8, reserved, 96, "0")

#define FRAME_PONG_FIELDS(F, A)                                                                \
    F(u64, ping_timestamp, "echoed")                                                           \
    A(u8, reserved, 120, "0")

#define FRAME_REQUEST_FIELDS(F, A)                                                             \
    F(u128, parent, "context of the client's last reply; 0 in a register request")             \
    F(u128, parent_padding, "0")                                                               \
    F(u128, client, "client id; not 0")                                                        \
    F(u64, session, "session number; 0 in a register request")                                 \
    F(u64, timestamp, "0")                                                                     \
    F(u32, number, "request number in its session, from 1; 0 in a register request")           \
    F(u8, operation, "Operation")                                                              \
    A(u8, padding, 3, "0")                                                                     \
    F(u32, previous_request_latency, "us; for information")                                    \
    A(u8, reserved, 52, "0")

#define FRAME_REPLY_FIELDS(F, A)                                                               \
    F(u128, request_checksum, "checksum of the request")                                       \
    F(u128, request_checksum_padding, "0")                                                     \
    F(u128, context, "this server's: id of the start that op is of << 64 | op")                 \
    F(u128, context_padding, "0")                                                              \
    F(u128, client, "echoed")                                                                  \
    F(u64, op, "position; not 0; of a register reply the session number")                      \
    F(u64, commit, "equals op")                                                                \
    F(u64, timestamp, "ledger clock; ns; not 0")                                               \
    F(u32, number, "echoed")                                                                   \
    F(u8, operation, "echoed")                                                                 \
    A(u8, reserved, 19, "0")

#define FRAME_EVICTION_FIELDS(F, A)                                                            \
    F(u128, client, "client id")                                                               \
    A(u8, reserved, 111, "0")                                                                  \
    F(u8, reason, "EvictionReason")

#define FRAME_REGISTER_REPLY_FIELDS(F, A)                                                      \
    F(u32, body_bytes_max, "longest body a request may have; 1 to 1,048,320")                  \
    A(u8, reserved, 60, "0")

/* R(name, C type, LIST, bytes, doc) */
#define FRAMES(R)                                                                              \
    R(frame_common, frame_common_t, FRAME_COMMON_FIELDS, 128, "the first half of every header") \
    R(frame_ping, frame_ping_t, FRAME_PING_FIELDS, 128, "second half: ping_client")            \
    R(frame_pong, frame_pong_t, FRAME_PONG_FIELDS, 128, "second half: pong_client")            \
    R(frame_request, frame_request_t, FRAME_REQUEST_FIELDS, 128, "second half: request")       \
    R(frame_reply, frame_reply_t, FRAME_REPLY_FIELDS, 128, "second half: reply")               \
    R(frame_eviction, frame_eviction_t, FRAME_EVICTION_FIELDS, 128, "second half: eviction")   \
    R(frame_register_reply, frame_register_reply_t, FRAME_REGISTER_REPLY_FIELDS, 64,           \
      "body of the reply to a register request")

FRAMES(AS_STRUCT)
FRAMES(AS_PROOF)

#define FRAME_COMMANDS(E)                                                                      \
    E(PING_CLIENT, 3, "client to server: are you there")                                       \
    E(PONG_CLIENT, 4, "server to client: yes")                                                 \
    E(REQUEST, 5, "client to server: an operation")                                            \
    E(REPLY, 8, "server to client: its results")                                               \
    E(EVICTION, 18, "server to client: your session is over")

#define FRAME_ERRORS(E)                                                                        \
    E(HEADER_CHECK, 1, "the header is not what was sent")                                      \
    E(BODY_CHECK, 2, "the body is not what was sent")                                          \
    E(SIZE, 3, "a frame shorter than its header or longer than a message may be")              \
    E(CLUSTER, 4, "a frame for another cluster")                                               \
    E(ANSWER, 5, "an intact reply that no server of this protocol gives")

#define AS_COMMAND(name, value, doc) COMMAND_##name = (value),
#define AS_FRAME_ERROR(name, value, doc) FRAME_ERROR_##name = (value),
enum { FRAME_COMMANDS(AS_COMMAND) };
enum { FRAME_ERRORS(AS_FRAME_ERROR) };

#endif
