/* Prometheus' text format 0.0.4: a family's head, its samples. The head comes with the first sample: a family without
 * samples is not there. */
#ifndef QBD_TOOLS_METRICS_TEXT_H
#define QBD_TOOLS_METRICS_TEXT_H

#include <stdbool.h>
#include <stdio.h>

#define METRIC_LABELS_MAX 6

struct metric_family {
    const char *name, *type, *help;
};

struct metric_label {
    const char *name, *value;
};

struct metrics_text {
    FILE *f;
    const struct metric_family *headed; /* whose head was written last */
};

/* One sample; labels end with a NULL name or at METRIC_LABELS_MAX. Samples of one family follow each other. */
void metrics_sample(struct metrics_text *t, const struct metric_family *m, const struct metric_label *labels,
                    double value);

#endif
