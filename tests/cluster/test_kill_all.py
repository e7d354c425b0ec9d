#!/usr/bin/python3
"""kill -9 of all four processes at once under write load, `qbd local start` again: every acknowledged write is there. QBD_ROUNDS times in a row (5; the acceptance run takes 50).

In every other round the load survives and goes on by itself against the restarted cluster; in the others it ends with its requests unanswered."""
import os

from qbdtest import main, say, verify

ROUNDS = int(os.environ.get("QBD_ROUNDS", "5"))


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = None
    for i in range(ROUNDS):
        if load is None:
            load = t.load(uri, "--depth", 24, "--drain-s", "0", "--seed", i + 1)
        load.wait_progress(t.random.randrange(50, 1200))
        c.kill("all")
        survives = i % 2 == 0 and i + 1 < ROUNDS
        if not survives:
            load.finish()
            load = None
        c.start()
        if survives:
            load.wait_progress(100)
        else:
            verify(uri, t.path("model"))
        say(f"round {i + 1} of {ROUNDS}")


main(scenario)
