/* One message or more of every type, with all that can be in it: what the tests of frames are made of. */
#ifndef QBD_TESTS_WIRE_SAMPLES_H
#define QBD_TESTS_WIRE_SAMPLES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/wire.h"
#include "base/wire_format.h"

#define SAMPLES_MAX 128
#define FRAME_MAX (sizeof(struct wire_header) + WIRE_BODY_MAX)

struct sample {
    struct msg m;
    uint32_t payload_len;
    struct buf *payload; /* DATA's, IMAGE_REPLY's */
};

/* Made anew by samples_setup, with other bytes each time. */
extern struct arena *arena;
extern struct sample samples[SAMPLES_MAX];
extern unsigned n_samples;

int samples_setup(void **state);
int samples_teardown(void **state);
const struct sample *nth_sample(uint16_t type, unsigned nth);
uint64_t next_random(void);

/* Decodes a body from memory of exactly its size, so that the sanitizer sees every read beyond it. */
const char *decode_exact(const struct wire_header *h, const uint8_t *body, struct msg *ret, void **ret_memory);
/* Makes the checksums of a header and its body right. */
void seal(struct wire_header *h, const uint8_t *body);

#define TEST(f) cmocka_unit_test_setup_teardown(f, samples_setup, samples_teardown)

#endif
