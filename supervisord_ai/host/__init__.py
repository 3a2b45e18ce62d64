"""The doors to the operating system: every call to it is in here, one module for each thing outside.

    process, launch, shim   children: started in a cage, held, waited for, signalled without hitting another
    procfs                  who runs, whose child he is, which tag he carries
    cages                   finds the strongest cages that work here, by doing:
      cgroup, cgroup_v1, cgroup_v2, uncaged
    memory, signals, systemd
    sockets, peers          where we listen, and what the kernel says of who connects
    state_folder            the folder of one supervisor, locked

Foreign errors (OSError, KeyError of pwd) become those of errors.py here. Nothing in here decides: limits, graces and verdicts
come from core.
"""
