/* The NBD protocol on the wire: constants and fixed messages, as doc/proto.md of NetworkBlockDevice/nbd names them.
 *
 * NBD is big-endian: every field here is as it stands on the wire; be16..be64 convert. Messages arrive at any address
 * and are copied into these structs before they are looked at. */
#ifndef QBD_NBDSERVER_NBD_PROTO_H
#define QBD_NBDSERVER_NBD_PROTO_H

#include <endian.h>

#include "base/types.h"

#define NBD_PACKED __attribute__((packed))

/* ---- handshake ---- */

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)        /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC UINT64_C(0x0003e889045565a9)

#define NBD_STRING_MAX 4096u /* "Conventions": a string MUST be no longer */

enum nbd_handshake_flag { NBD_FLAG_FIXED_NEWSTYLE = 1u << 0, NBD_FLAG_NO_ZEROES = 1u << 1 };
enum nbd_client_flag { NBD_FLAG_C_FIXED_NEWSTYLE = 1u << 0, NBD_FLAG_C_NO_ZEROES = 1u << 1 };

enum nbd_option_type {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_PEEK_EXPORT = 4, /* withdrawn */
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

enum nbd_option_reply_type {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR(n) ((UINT32_C(1) << 31) + (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_PLATFORM NBD_REP_ERR(4)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum nbd_info_type { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3 };

enum nbd_transmission_flag {
    NBD_FLAG_HAS_FLAGS = 1u << 0,
    NBD_FLAG_READ_ONLY = 1u << 1,
    NBD_FLAG_SEND_FLUSH = 1u << 2,
    NBD_FLAG_SEND_FUA = 1u << 3,
    NBD_FLAG_ROTATIONAL = 1u << 4,
    NBD_FLAG_SEND_TRIM = 1u << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1u << 6,
    NBD_FLAG_SEND_DF = 1u << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1u << 8,
    NBD_FLAG_SEND_CACHE = 1u << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1u << 11,
};

struct nbd_greeting {
    uint64_t magic;
    uint64_t option_magic;
    uint16_t flags;
} NBD_PACKED;
static_assert(sizeof(struct nbd_greeting) == 18, "as on the wire");

struct nbd_option_header {
    uint64_t magic;
    uint32_t option;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_option_header) == 16, "as on the wire");

struct nbd_option_reply {
    uint64_t magic;
    uint32_t option;
    uint32_t type;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_option_reply) == 20, "as on the wire");

/* The answer to EXPORT_NAME; the zeroes are left out when NO_ZEROES was negotiated. */
struct nbd_export_name_reply {
    uint64_t size_bytes;
    uint16_t flags;
    uint8_t zeroes[124];
} NBD_PACKED;
static_assert(sizeof(struct nbd_export_name_reply) == 134, "as on the wire");

struct nbd_info_export {
    uint16_t type;
    uint64_t size_bytes;
    uint16_t flags;
} NBD_PACKED;
static_assert(sizeof(struct nbd_info_export) == 12, "NBD_INFO_EXPORT: length MUST be 12");

struct nbd_info_block_size {
    uint16_t type;
    uint32_t minimum;
    uint32_t preferred;
    uint32_t maximum_payload;
} NBD_PACKED;
static_assert(sizeof(struct nbd_info_block_size) == 14, "NBD_INFO_BLOCK_SIZE: length MUST be 14");

/* What this server advertises: the specification's defaults, so nobody is refused for not asking. */
#define NBD_BLOCK_MINIMUM 1u
#define NBD_BLOCK_PREFERRED BLOCK_SIZE
#define NBD_PAYLOAD_MAX (32u << 20)
static_assert((NBD_BLOCK_MINIMUM & (NBD_BLOCK_MINIMUM - 1)) == 0 && NBD_BLOCK_MINIMUM <= 65536,
              "Size constraints: the minimum is a power of 2 and at most 64 KiB");
static_assert((NBD_BLOCK_PREFERRED & (NBD_BLOCK_PREFERRED - 1)) == 0 && NBD_BLOCK_PREFERRED >= 512 &&
                  NBD_BLOCK_PREFERRED >= NBD_BLOCK_MINIMUM,
              "Size constraints: preferred is a power of 2, at least the minimum and 512");
static_assert(NBD_PAYLOAD_MAX >= NBD_BLOCK_PREFERRED && NBD_PAYLOAD_MAX >= 1u << 25,
              "Size constraints: a payload of 32 MiB is no denial of service");

/* ---- transmission ---- */

#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
    NBD_CMD_FLAG_FUA = 1u << 0,
    NBD_CMD_FLAG_NO_HOLE = 1u << 1,
    NBD_CMD_FLAG_DF = 1u << 2,
    NBD_CMD_FLAG_REQ_ONE = 1u << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1u << 4,
};

#define NBD_REPLY_FLAG_DONE 1u
#define NBD_REPLY_TYPE_NONE 0u
#define NBD_REPLY_TYPE_OFFSET_DATA 1u
#define NBD_REPLY_TYPE_OFFSET_HOLE 2u
#define NBD_REPLY_TYPE_ERROR ((1u << 15) + 1)
#define NBD_REPLY_TYPE_ERROR_OFFSET ((1u << 15) + 2)

/* "Error values": the only eight. They are Linux's errno values, and stay these on any system. */
enum nbd_error {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

struct nbd_request_header {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie; /* opaque: never converted, never a key */
    uint64_t offset;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_request_header) == 28, "as on the wire");

struct nbd_simple_reply {
    uint32_t magic;
    uint32_t error;
    uint64_t cookie;
} NBD_PACKED;
static_assert(sizeof(struct nbd_simple_reply) == 16, "as on the wire");

struct nbd_chunk {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk) == 20, "as on the wire");

struct nbd_chunk_data {
    struct nbd_chunk chunk;
    uint64_t offset;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_data) == 28, "as on the wire");

struct nbd_chunk_hole {
    struct nbd_chunk chunk;
    uint64_t offset;
    uint32_t size_bytes;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_hole) == 32, "as on the wire");

struct nbd_chunk_error {
    struct nbd_chunk chunk;
    uint32_t error;
    uint16_t message_length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_error) == 26, "as on the wire");

#endif
