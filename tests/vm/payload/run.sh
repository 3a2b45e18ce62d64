#!/bin/sh
# Runs in the guest, as root, below a systemd unit with Delegate=yes. With arguments: only these (cap takeover service user suite).
export PYTHONDONTWRITEBYTECODE=1
[ $# -gt 0 ] || set -- cap takeover service user suite
failed=0
for story; do
    if [ "$story" = suite ]; then
        # The same tests that run on every machine, here where cgroup v2 has the memory controller.
        (cd /payload/suite && python3 -m pytest -p pytest_trio.plugin -p no:cacheprovider --noconftest -k "v2 and not 131" \
            tests/contract/test_cages.py tests/system/test_fleet.py) || failed=1
    else
        PYTHONPATH=/payload/site python3 -u "/payload/$story.py" || failed=1
    fi
done
exit $failed
