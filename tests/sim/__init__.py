"""The whole daemon in one process, in virtual time, with everything going wrong from a seed.

The daemon is the real one (`daemon.Daemon`: gateway, scheduler, fleet, journal, cache, event wiring); below it stand the double
of Ollama, made-up processes and cages, and a disk that keeps what was synced; above it simulated agents ask over connections
in memory. Nothing here sleeps on a real clock and nothing is random but by the seed, so a seed replays to the letter:

    python -m tests.sim SEED DAYS            one run; its figures, or the story of the promise it broke
    python -m tests.sim SEED DAYS --shrink   the same, with the fewest faults that still break it

    plan         which fault comes when: from the seed, before anything runs, so that faults can be left out one by one
    machine      processes, cages, clock, disk: what outlives a daemon, and what a kill or a power cut leaves of its files
    asks         every request that was asked: what it may be answered, when it may start, what was promised
    upstream     what the double says to whom, and how it fails
    callers      what agents do: ask, leave, read slowly, flood, come back with their key
    owner        what the owner does at control.sock: rollouts, seen through or back
    world        the lives of the daemon, one after the other, and the faults between and within them
    order        whom each start of the backlog passes, and what each load pushes out
    invariants   what must hold at every moment, and what must be left when everything has come to rest
"""
