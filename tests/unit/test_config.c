/* The configuration file: what it accepts, and that each mistake is refused with its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"

#define ID1 "11111111-2222-3333-4444-555555555551"
#define ID2 "11111111-2222-3333-4444-555555555552"
#define ID3 "11111111-2222-3333-4444-555555555553"
#define HEAD "[cluster]\nid = " ID1 "\n"
#define R1 "[replica r1]\nidentity = " ID1 "\naddress = unix:/tmp/r1\n"
#define R2 "[replica r2]\nidentity = " ID2 "\naddress = 127.0.0.1:7001\n"
#define R3 "[replica r3]\nidentity = " ID3 "\naddress = [::1]:7002\n"

static struct cluster_config config;
static char why[256];
static char path[] = "test_config.XXXXXX";

static int load_bytes(const char *text, size_t len)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    fclose(f);
    memset(why, 0, sizeof why);
    return config_load(path, &config, why);
}

static int load(const char *text)
{
    return load_bytes(text, strlen(text));
}

static int setup(void **state)
{
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    return unlink(path);
}

static void reads_a_whole_cluster(void **state)
{
    /* Volumes may come before the replicas that they name. */
    int r = load("; a comment\n" HEAD "lease_ms = 1500 ; why not\n\n"
                 "[volume vol0]\ngroup = 1\nsize = 1G\nreplicas = r1 r2, r3\n" R1 R2 R3
                 "# another\n[volume vol.1-x]\ngroup = 18446744073709551615\nsize = 4096\nreplicas = r3");
    if (r < 0)
        fail_msg("%s", why);
    char text[37];
    assert_string_equal(uuid_format(&config.id, text), ID1);
    assert_int_equal(config.lease_ms, 1500);
    assert_int_equal(config.n_replicas, 3);
    assert_int_equal(config.n_volumes, 2);
    assert_string_equal(config.replicas[2].address, "[::1]:7002");
    const struct volume_config *v = config_find_volume(&config, "vol0");
    assert_non_null(v);
    assert_int_equal(v->size_bytes, 1 << 30);
    assert_int_equal(v->n_replicas, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(v->replica[i], i);
    v = config_find_volume(&config, "vol.1-x");
    assert_non_null(v);
    assert_true(v->group == UINT64_MAX);
    assert_int_equal(v->replica[0], 2);
    assert_string_equal(config_find_replica(&config, "r2")->name, "r2");
    assert_string_equal(config_find_identity(&config, &config.replicas[1].identity)->name, "r2");
    assert_null(config_find_replica(&config, "r4"));
    assert_null(config_find_volume(&config, "vol1"));
}

static void lease_has_a_default(void **state)
{
    assert_int_equal(load(HEAD), 0);
    assert_int_equal(config.lease_ms, 2000);
    assert_int_equal(config.copy_floor_bytes_per_s, 0); /* the daemon's own */
    assert_int_equal(config.copy_ceiling_bytes_per_s, 0);
}

static void copies_may_be_bounded(void **state)
{
    assert_int_equal(load(HEAD "copy_floor = 1M\ncopy_ceiling = 1T\n"), 0);
    assert_int_equal(config.copy_floor_bytes_per_s, 1 << 20);
    assert_true(config.copy_ceiling_bytes_per_s == UINT64_C(1) << 40);
    assert_int_equal(load(HEAD "copy_ceiling = 65536\ncopy_floor = 64K\n"), 0);
}

struct mistake {
    const char *text;
    unsigned line;
    const char *says;
};

#define VOLUME(body) HEAD R1 R2 R3 "[volume v]\n" body
/* HEAD is 2 lines, each replica 3, so that a volume's body begins on line 13. */
static const struct mistake mistakes[] = {
    {"", 0, "[cluster] is missing"},
    {R1, 3, "[cluster] is missing"},
    {"x = 1\n", 1, "outside of a section"},
    {"[cluster]\nlease_ms = 2000\n", 1, "needs id"},
    {"[cluster]\nid = nonsense\n", 2, "not a UUID"},
    {"[cluster]\nid = 00000000-0000-0000-0000-000000000000\n", 2, "not a UUID"},
    {HEAD "id = " ID1 "\n", 3, "second time"},
    {HEAD "lease_ms = 99\n", 3, "lease_ms"},
    {HEAD "lease_ms = 2s\n", 3, "lease_ms"},
    {HEAD "lease_ms = -1\n", 3, "lease_ms"},
    {HEAD "lease_ms =\n", 3, "no value"},
    {HEAD "copy_floor = 65535\n", 3, "copy_floor is a number"},
    {HEAD "copy_floor = 1M/s\n", 3, "copy_floor is a number"},
    {HEAD "copy_ceiling = 2T\n", 3, "copy_ceiling is a number"},
    {HEAD "copy_ceiling = 1M\ncopy_ceiling = 2M\n", 4, "copy_ceiling a second time"},
    {HEAD "copy_floor = 2M\ncopy_ceiling = 1M\n", 4, "above copy_ceiling"},
    {HEAD "copy_ceiling = 1M\ncopy_floor = 2M\n", 4, "above copy_ceiling"},
    {HEAD "lease = 5\n", 3, "unknown key lease"},
    {HEAD "nonsense\n", 3, "neither"},
    {HEAD "[cluster]\n", 3, "second [cluster]"},
    {HEAD "[cluste]\n", 3, "unknown section"},
    {HEAD "[replica]\n", 3, "unknown section"},
    {HEAD "[replica x\n", 3, "without ']'"},
    {HEAD "[replica x] y\n", 3, "text after"},
    {HEAD "[replica a/b]\n", 3, "name"},
    {HEAD "[replica ..]\n", 3, "name"},
    {HEAD "[replica 0123456789012345678901234567890123456789012345678901234567890123]\n", 3, "name"},
    {HEAD "[replica r1]\naddress = unix:/x\n", 3, "identity and address"},
    {HEAD "[replica r1]\nidentity = " ID1 "\n[volume v]\n", 3, "identity and address"},
    {HEAD R1 R1, 6, "second replica"},
    {HEAD R1 "[replica r2]\nidentity = " ID1 "\naddress = a:1\n", 7, "same identity"},
    {HEAD R1 "[replica r2]\nidentity = " ID2 "\naddress = unix:/tmp/r1\n", 8, "same address"},
    {HEAD R1 "address = a:1\n", 6, "second time"},
    {HEAD R1 "port = 1\n", 6, "unknown key port"},
    {HEAD "[replica r1]\naddress = unix:\n", 4, "address"},
    {HEAD "[replica r1]\naddress = host\n", 4, "address"},
    {HEAD "[replica r1]\naddress = host:0\n", 4, "address"},
    {HEAD "[replica r1]\naddress = host:65536\n", 4, "address"},
    {HEAD "[replica r1]\naddress = :1\n", 4, "address"},
    {VOLUME("group = 1\nsize = 1G\n"), 12, "group, size and replicas"},
    {VOLUME("group = 0\n"), 13, "group"},
    {VOLUME("group = 18446744073709551616\n"), 13, "group"},
    {VOLUME("group = 1\ngroup = 2\n"), 14, "second time"},
    {VOLUME("size = 4095\n"), 13, "multiple of 4096"},
    {VOLUME("size = 0\n"), 13, "size"},
    {VOLUME("size = 1X\n"), 13, "size"},
    {VOLUME("size = 1GB\n"), 13, "size"},
    {VOLUME("size = G\n"), 13, "size"},
    {VOLUME("size = 16E\n"), 13, "size"},
    {VOLUME("size = 99999999999999999999\n"), 13, "size"},
    {VOLUME("stripes = 2\n"), 13, "unknown key stripes"},
    {VOLUME("group = 1\nsize = 1G\nreplicas = r1 r9\n"), 15, "r9"},
    {VOLUME("group = 1\nsize = 1G\nreplicas = r1 r2 r1\n"), 15, "twice"},
    {VOLUME("group = 1\nsize = 1G\nreplicas = ,\n"), 15, "no replica"},
    {VOLUME("group = 1\nsize = 1G\nreplicas = r1\n[volume v]\n"), 16, "second volume"},
    {VOLUME("group = 1\nsize = 1G\nreplicas = r1\n[volume w]\ngroup = 1\n"), 17, "same group"},
    /* inih would make one value of two lines. */
    {HEAD R1 "  address = a:1\n", 6, "second time"},
};

static void refuses_each_mistake_with_its_line(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(mistakes); i++) {
        const struct mistake *m = &mistakes[i];
        char prefix[64];
        int r = load(m->text);
        snprintf(prefix, sizeof prefix, "%s:%u: ", path, m->line);
        if (r != -EINVAL || strncmp(why, prefix, strlen(prefix)) != 0 || !strstr(why, m->says))
            fail_msg("mistake %zu: %d \"%s\", expected %s... %s", i, r, why, prefix, m->says);
    }
}

static void refuses_what_is_no_text(void **state)
{
    char line[600];
    static const char zero[] = HEAD "lease_ms = 2\0" "000\n";
    memset(line, 'x', sizeof line);
    assert_int_equal(load_bytes(line, sizeof line), -EINVAL);
    assert_non_null(strstr(why, ":1: a line of more than"));
    assert_int_equal(load_bytes(zero, sizeof zero - 1), -EINVAL);
    assert_non_null(strstr(why, ":3: a zero byte"));
    assert_int_equal(load_bytes("\0\n", 2), -EINVAL);
    assert_int_equal(config_load("/nonexistent/qbd.conf", &config, why), -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/qbd.conf: No such file"));
}

static void every_cut_and_every_changed_byte_is_survived(void **state)
{
    static const char good[] = VOLUME("group = 1\nsize = 1G\nreplicas = r1 r2 r3\n");
    char text[sizeof good];
    for (size_t n = 0; n < sizeof good - 1; n += 3)
        (void)!load_bytes(good, n);
    for (size_t i = 0; i < sizeof good - 1; i++) {
        memcpy(text, good, sizeof good);
        text[i] = (char)(text[i] ^ (1 << i % 8));
        int r = load_bytes(text, sizeof good - 1);
        if (r < 0)
            assert_true(why[0] != 0);
    }
}

static void limits_are_held(void **state)
{
    static char text[64 << 10];
    for (unsigned count = CONFIG_REPLICAS_MAX; count <= CONFIG_REPLICAS_MAX + 1; count++) {
        int n = sprintf(text, HEAD);
        for (unsigned i = 0; i < count; i++)
            n += sprintf(text + n, "[replica r%u]\nidentity = 11111111-2222-3333-4444-5555555%05u\naddress = h:%u\n", i, i + 1, i + 1);
        assert_int_equal(load(text), count > CONFIG_REPLICAS_MAX ? -EINVAL : 0);
    }
    for (unsigned count = CONFIG_VOLUMES_MAX; count <= CONFIG_VOLUMES_MAX + 1; count++) {
        int n = sprintf(text, HEAD R1);
        for (unsigned i = 0; i < count; i++)
            n += sprintf(text + n, "[volume v%u]\ngroup = %u\nsize = 4K\nreplicas = r1\n", i, i + 1);
        assert_int_equal(load(text), count > CONFIG_VOLUMES_MAX ? -EINVAL : 0);
    }
    int n = sprintf(text, HEAD);
    for (unsigned i = 0; i < MEMBERS_MAX + 1; i++)
        n += sprintf(text + n, "[replica r%u]\nidentity = 11111111-2222-3333-4444-5555555%05u\naddress = h:%u\n", i, i + 1, i + 1);
    sprintf(text + n, "[volume v]\ngroup = 1\nsize = 4K\nreplicas = r0 r1 r2 r3 r4 r5 r6 r7\n");
    assert_int_equal(load(text), -EINVAL);
    assert_non_null(strstr(why, "more than 7"));
}

static void sizes(void **state)
{
    uint64_t v;
    static const struct {
        const char *s;
        int r;
        uint64_t v;
    } cases[] = {
        {"0", 0, 0},           {"512", 0, 512},          {"64K", 0, 65536},  {"1M", 0, 1 << 20},
        {"1G", 0, 1 << 30},    {"2T", 0, 2ull << 40},    {"15E", 0, 15ull << 60}, {"16E", -ERANGE, 0},
        {"18446744073709551615", 0, UINT64_MAX},         {"18446744073709551616", -ERANGE, 0},
        {"", -EINVAL, 0},      {"K", -EINVAL, 0},        {"1k", -EINVAL, 0}, {" 1", -EINVAL, 0},
        {"-1", -EINVAL, 0},    {"1KK", -EINVAL, 0},      {"1.5G", -EINVAL, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        v = 77;
        assert_int_equal(config_parse_size(cases[i].s, &v), cases[i].r);
        assert_true(v == (cases[i].r ? 77 : cases[i].v));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_whole_cluster),
        cmocka_unit_test(lease_has_a_default),
        cmocka_unit_test(copies_may_be_bounded),
        cmocka_unit_test(refuses_each_mistake_with_its_line),
        cmocka_unit_test(refuses_what_is_no_text),
        cmocka_unit_test(every_cut_and_every_changed_byte_is_survived),
        cmocka_unit_test(limits_are_held),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
