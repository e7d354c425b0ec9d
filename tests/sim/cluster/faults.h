/* The kinds of faults, by name. Each is counted when it really happened, not when it was planned. */
#ifndef QBD_TESTS_SIM_CLUSTER_FAULTS_H
#define QBD_TESTS_SIM_CLUSTER_FAULTS_H

enum fault {
    /* processes */
    FAULT_KILL,
    FAULT_POWER,
    FAULT_ALL_POWER,
    FAULT_CRASH_AT_IO,         /* at the submission or completion of the nth operation of a drawn kind on a drawn disk */
    FAULT_CRASH_IN_RECOVERY,   /* the same within a start */
    FAULT_CRASH_IN_CHECKPOINT, /* the same within a checkpoint */
    FAULT_PAUSE_REPLICA,
    FAULT_DRIFT,
    FAULT_FRONTEND_KILL,
    FAULT_FRONTEND_POWER,
    FAULT_FRONTEND_RACE, /* all of them die, and return at the same time */
    FAULT_PAUSE_FRONTEND,
    FAULT_STORM, /* take-overs in quick succession, with front ends cut from some replicas */
    /* network */
    FAULT_CUT,
    FAULT_ONE_WAY,
    FAULT_ISOLATED_HOST,
    FAULT_ISOLATED_PAIR, /* two hosts that hear only each other */
    FAULT_RESET,
    FAULT_RESET_AT_BYTE,
    FAULT_OLD_CONNECTION, /* its bytes arrive after a new one was made */
    FAULT_DELAY_TAIL,
    FAULT_SLOW_LINK,
    /* disks */
    FAULT_SLOW_DISK,
    FAULT_STUCK_DISK,
    FAULT_FULL_DISK,
    FAULT_WRITE_ERROR,
    FAULT_FLUSH_ERROR,
    FAULT_READ_ERROR,
    FAULT_LATENT_WAL, /* can't be read any more, until written */
    FAULT_LATENT_DATA,
    FAULT_LATENT_LEAF,
    FAULT_FLIP_WAL,
    FAULT_FLIP_SUPERBLOCK,
    FAULT_FLIP_META,
    FAULT_FLIP_LEAF,
    FAULT_FLIP_DATA,
    FAULT_MISDIRECTED_WAL,
    FAULT_MISDIRECTED_DATA,
    FAULT_DISK_LOST,
    /* what follows from them */
    FAULT_RESTART_AFTER_ERROR, /* a daemon ended by itself because of an error, and came back */
    FAULT_REFUSED_START,       /* a replica found its disk rotten beyond use, and said so */
    /* those of themes: whole sequences, each tried time after time in runs that are given to it (faults_theme.c) */
    FAULT_ROT_STORM,     /* the newest of a WAL rots while everybody is down, and the rest comes back without a witness */
    FAULT_STALE_STREAM,  /* a catch-up that began before a stream, and ends when that stream's front end is replaced */
    FAULT_LATE_ANSWERS,  /* a replica's answers arrive when their front end has another ballot */
    FAULT_REPAIR_STORM,  /* data rots faster than it is repaired */
    FAULT_TORN_LOG,      /* a replica dies with WAL batches under way, time after time */
    FAULT_TAILS,         /* streams begin at replicas that were not heard, and hold more than was to be known */
    FAULT_KINDS
};

/* Some runs have a theme: nothing happens in them but what is told here, and timing and requests help it. */
enum theme {
    THEME_DRAWN, /* in options: as the seed says */
    THEME_NONE,
    THEME_ROT,
    THEME_STALE,
    THEME_ANSWERS,
    THEME_CROWD, /* storms of take-overs while all clients write the same few blocks */
    THEME_REPAIR,
    THEME_TORN,
    THEME_SLOW_READS, /* a disk reads more slowly than it writes */
    THEME_TAILS,
    THEME_SCRUB, /* only when asked for: an eighth of all small runs scrub anyway */
    THEME_COPY, /* logs that reach back hardly at all: who was away must copy, again and again. Never drawn: nearly all seeds copy now and then */
    THEME_MEMBERS, /* voters are replaced, added and removed, and disks are lost for good. A share of the ordinary runs does so, too */
    THEMES
};

const char *fault_name(unsigned kind);
const char *theme_name(unsigned theme);

#endif
