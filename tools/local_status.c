/* qbd local status: each component as a process and as a daemon. */
#include "tools/local.h"
#include "tools/status.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define ASK_TIMEOUT_MS 1500
#define COLUMNS 5

/* What is shown of one component; texts are owned. */
struct row {
    char *cell[COLUMNS];
    json_t *json;
};

static char *text(const char *fmt, ...) PRINTF_LIKE(1, 2);
static char *text(const char *fmt, ...)
{
    char *s;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        abort();
    return s;
}

static const char *process_word(const struct process *p)
{
    return p->state == PROCESS_GONE ? "stopped" : p->state == PROCESS_PAUSED ? "paused" : "running";
}

static void row_fill(struct row *row, const char *name, const char *kind, const struct process *p, const char *address,
                     char *position)
{
    row->cell[0] = text("%s", name);
    row->cell[1] = p->pid ? text("%d", (int)p->pid) : text("-");
    row->cell[2] = text("%s", process_word(p));
    row->cell[3] = position;
    row->cell[4] = text("%s", address);
    row->json = json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", name, "kind", kind, "state", process_word(p), "address",
                          address, "detail", position);
    json_object_set_new(row->json, "pid", p->pid ? json_integer(p->pid) : json_null());
}

static void replica_row(struct row *row, const struct cluster_dir *d, const struct replica_config *r)
{
    struct replica_view v;
    replica_view_take(&v, &d->conf, r, d, d->conf.volumes[0].group);
    int64_t at = replica_view_position(&v);
    char state[256];
    replica_view_describe(&v, replica_view_state(&v, d), state, sizeof state);
    char *position;
    if (at >= 0)
        position = text("slot %" PRId64 ", %s", at, state);
    else if (*v.why.text)
        position = text("%s: %s", state, v.why.text);
    else
        position =
            text("%s", v.process.state == PROCESS_RUNNING || !cluster_replica_formatted(d, r->name) ? state : "-");
    row_fill(row, r->name, "replica", &v.process, r->address, position);
    json_object_set_new(row->json, "position", at >= 0 ? json_integer(at) : json_null());
    if (v.status)
        json_object_set(row->json, "status", v.status);
    replica_view_drop(&v);
}

static void frontend_row(struct row *row, const struct cluster_dir *d, const struct local_frontend *f)
{
    static const struct uuid any;
    struct process p = cluster_process(d, f->name);
    struct why why = {""};
    json_t *status = NULL;
    char address[CONFIG_ADDRESS_MAX], *position = NULL;
    cluster_socket_address(d, f->name, "status", address);
    if (p.state == PROCESS_RUNNING)
        status = client_status(address, &d->conf.id, &any, ASK_TIMEOUT_MS, &why);
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(status, "volumes"), i, v)
    {
        if (strcmp(json_text_or(v, "name", ""), f->volume) != 0)
            continue;
        const char *sentence = json_text_or(v, "sentence", "");
        position = text("%s", *sentence ? sentence : json_text_or(v, "state", "?"));
        break;
    }
    if (!position)
        position = *why.text ? text("unreachable: %s", why.text) : text("-");
    row_fill(row, f->name, "nbdserver", &p, f->listen, position);
    if (status)
        json_object_set_new(row->json, "status", status);
}

int local_status(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    static const char *const headings[COLUMNS] = {"NAME", "PID", "STATE", "POSITION", "ADDRESS"};
    struct row rows[CONFIG_REPLICAS_MAX + FRONTENDS_MAX];
    char *cells[ARRAY_LEN(rows) * COLUMNS];
    unsigned n = 0;
    for (uint32_t i = 0; i < d->conf.n_replicas; i++)
        replica_row(&rows[n++], d, &d->conf.replicas[i]);
    for (uint32_t i = 0; i < d->n_frontends; i++)
        frontend_row(&rows[n++], d, &d->frontends[i]);
    json_t *components = json_array();
    for (unsigned i = 0; i < n; i++) {
        memcpy(&cells[i * COLUMNS], rows[i].cell, sizeof rows[i].cell);
        json_array_append_new(components, rows[i].json);
    }
    json_t *o = json_pack("{s:s, s:s, s:I, s:o}", "dir", d->dir, "volume", d->conf.volumes[0].name, "size_bytes",
                          (json_int_t)d->conf.volumes[0].size_bytes, "components", components);
    if (a->given & GIVEN_JSON) {
        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_table(headings, COLUMNS, cells, n);
    }
    json_decref(o);
    for (unsigned i = 0; i < n * COLUMNS; i++)
        free(cells[i]);
    return 0;
}
