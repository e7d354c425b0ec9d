/* What the scrub does and found, for STATUS (docs/operations.md). */
#include "replica/scrub_status.h"

#include "replica/scrub_internal.h"

static json_t *ranges_json(const struct scrub_list *l)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < l->n && i < SCRUB_NAMED_MAX; i++)
        json_array_append_new(a, json_pack("{s:I, s:I, s:I, s:b}", "group", (json_int_t)l->range[i].group, "block",
                                           (json_int_t)l->range[i].block, "blocks", (json_int_t)l->range[i].nblocks, "lost",
                                           l->range[i].lost));
    return a;
}

/* Of a pass under way and of one that is over. */
static json_t *report_json(const struct scrub_report *rep)
{
    return json_pack("{s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pass", (json_int_t)rep->id, "asked", rep->asked, "total_bytes",
                     (json_int_t)rep->total_bytes, "done_bytes", (json_int_t)rep->done_bytes, "verified_bytes",
                     (json_int_t)rep->verified_bytes, "bad_blocks", (json_int_t)(rep->bad_blocks + rep->disowned_blocks), "lost_blocks",
                     (json_int_t)rep->lost_blocks, "odd_blocks", (json_int_t)rep->disowned_blocks, "rewritten_pages",
                     (json_int_t)rep->rewritten_pages, "undecided_blocks", (json_int_t)rep->undecided.blocks, "compared_chunks",
                     (json_int_t)rep->compared_chunks, "skipped_chunks", (json_int_t)rep->skipped_chunks);
}

static json_t *last_json(const struct scrub_report *rep)
{
    json_t *o = report_json(rep);
    uint64_t found = rep->bad_blocks + rep->lost_blocks + rep->disowned_blocks, left = rep->found.blocks;
    json_object_set_new(o, "repaired_blocks", json_integer((json_int_t)(found > left ? found - left : 0)));
    json_object_set_new(o, "unrepaired_blocks", json_integer((json_int_t)left));
    json_object_set_new(o, "unrepaired", ranges_json(&rep->found));
    json_object_set_new(o, "undecided", ranges_json(&rep->undecided));
    json_object_set_new(o, "finished_at", json_integer((json_int_t)rep->finished_at));
    return o;
}

json_t *scrub_json(const struct replica *r)
{
    const struct scrub *sc = r->scrub;
    json_t *o = json_object(), *groups = json_array();
    json_object_set_new(o, "state", json_string(sc->state != SCRUB_IDLE ? "running" : sc->background_rate > 0 ? "waiting" : "off"));
    if (sc->state != SCRUB_IDLE) {
        json_t *now = report_json(&sc->now);
        json_object_set_new(now, "rate_bytes_per_s", json_integer((json_int_t)sc->rate));
        json_object_set_new(now, "group", json_integer((json_int_t)sc->group));
        json_object_set_new(o, "now", now);
    }
    if (sc->last.id != 0)
        json_object_set_new(o, "last", last_json(&sc->last));
    list_for_each(l, &r->groups)
    {
        const struct replica_group *g = container_of(l, struct replica_group, link);
        struct store_scrub_place p;
        store_scrub_place(r->store, g->id, &p);
        json_array_append_new(groups, json_pack("{s:I, s:I, s:I}", "group", (json_int_t)g->id, "passes", (json_int_t)p.passes,
                                                "last_done_at", (json_int_t)p.done_at));
    }
    json_object_set_new(o, "groups", groups);
    return o;
}
