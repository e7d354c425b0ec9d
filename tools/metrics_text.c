/* Prometheus' text format: see metrics_text.h. What always holds: whatever is in a label's value, the line stays one
 * line of valid UTF-8. */
#include "tools/metrics_text.h"

#include <jansson.h>
#include <math.h>

/* Values come from the configuration, too, which may hold any bytes: one bad byte would cost the whole page. */
static void put_escaped(FILE *f, const char *s)
{
    json_t *checked = json_string(s); /* refuses what is not UTF-8 */
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '\\' || c == '"')
            fprintf(f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", f);
        else
            fputc(c < 0x20 || c == 0x7f || (c >= 0x80 && !checked) ? '?' : c, f);
    }
    json_decref(checked);
}

static void put_value(FILE *f, double v)
{
    if (isnan(v))
        fputs("NaN", f);
    else if (isinf(v))
        fputs(v > 0 ? "+Inf" : "-Inf", f);
    else if (v == floor(v) && fabs(v) < 9007199254740992.0) /* 2^53: exact */
        fprintf(f, "%.0f", v == 0 ? 0.0 : v);               /* no "-0" */
    else
        fprintf(f, "%.10g", v);
}

void metrics_sample(struct metrics_text *t, const struct metric_family *m, const struct metric_label *labels,
                    double value)
{
    if (t->headed != m)
        fprintf(t->f, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, m->type);
    t->headed = m;
    fputs(m->name, t->f);
    unsigned n = 0;
    for (; n < METRIC_LABELS_MAX && labels[n].name; n++) {
        fprintf(t->f, "%c%s=\"", n ? ',' : '{', labels[n].name);
        put_escaped(t->f, labels[n].value);
        fputc('"', t->f);
    }
    fputs(n ? "} " : " ", t->f);
    put_value(t->f, value);
    fputc('\n', t->f);
}
