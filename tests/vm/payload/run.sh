#!/bin/sh
# Runs in the guest, as root, below a systemd unit with Delegate=yes. With arguments: only these (cap takeover service user suite);
# `service/upgraded` is one chapter of a story, behind its installation.
[ $# -gt 0 ] || set -- cap takeover service user suite
failed=0
up() { cut -d' ' -f1 /proc/uptime; }
for story; do
    echo "## $story, at $(up) s"
    if [ "$story" = suite ]; then
        # The same tests that run on every machine, here where cgroup v2 has the memory controller.
        # What was compiled outside is imported as it is: bytecode of pytest's own takes minutes here, and is for who failed.
        suite() {
            (cd /payload/suite && TEST_ROOM=5 PYTHONPATH=/payload/site python3 -m pytest -p pytest_trio.plugin --color=no -o cache_dir=/tmp/pytest \
                --noconftest "$@" -k "v2 and not 131" tests/contract/test_cages.py tests/system/test_fleet.py)
        }
        suite --assert=plain || { suite --lf; failed=1; }
    else
        PYTHONPATH=/payload/site python3 -u "/payload/${story%%/*}.py" "${story#*/}" || failed=1
    fi
done
echo "## done, at $(up) s"
exit $failed
