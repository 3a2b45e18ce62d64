#!/bin/sh
# Runs in the guest, as root, below a systemd unit with Delegate=yes.
export PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=/payload/site python3 -u /payload/cap.py || exit 1
PYTHONPATH=/payload/site python3 -u /payload/takeover.py || exit 1
# The same tests that run on every machine, here where cgroup v2 has the memory controller.
cd /payload/suite || exit 1
exec python3 -m pytest -p pytest_trio.plugin -p no:cacheprovider --noconftest -k "v2 and not 131" \
    tests/contract/test_cages.py tests/system/test_fleet.py
