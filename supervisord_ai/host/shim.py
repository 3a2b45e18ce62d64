"""The few lines of sh between fork and exec: enter the cage, take the limits, wait to be written down, become the agent.

Why a shell: code between fork and exec in a threaded Python process can deadlock and costs 17 times as much (it disables
vfork); a process moved into its group after it started leaves what it already holds outside. The shell moves itself, so the
cap binds before the agent's first instruction, and the pid stays the same.

It fails closed. Its stdin is one end of a socket pair. Whatever goes wrong is said there, and it ends with 219. Only when
everything is in place it says `caged` and waits for `go`: the supervisor writes the process into its journal first, so no
agent runs that a later supervisor would not know of. If the supervisor dies in between, `read` sees the end of file and the
agent never runs.

The name `ai-shim` (/proc/PID/comm) is how "could not be executed" is told from an agent that itself ends with 126 or 127: a
program that was executed has another name. Paths arrive as arguments and are never interpolated. Only single-digit
descriptors appear, because dash knows no others.
"""

from __future__ import annotations

from collections.abc import Sequence

COMM = "ai-shim"
CAGED = b"caged\n"
GO = b"go\n"

_ENTER = """\
set -e
trap 'rc=$?; echo "$STEP (status $rc)" >&3; exit 219' EXIT
exec 3>&0 4>&2 2>&3
STEP='set the umask'; umask 022
while [ "$1" != -- ]; do STEP="join $1"; echo 0 >"$1"; shift; done; shift
while [ "$1" != -- ]; do STEP="ulimit $1 $2"; ulimit "$1" "$2"; shift 2; done; shift
STEP="write oom_score_adj $1"; [ -z "$1" ] || echo "$1" >/proc/self/oom_score_adj; shift
"""

_BECOME_USER = """\
STEP='become the user'
trap - EXIT
exec "$@"
"""

_HOLD = """\
set -e
trap 'rc=$?; echo "$STEP (status $rc)" >&3; exit 219' EXIT
STEP='take the name'; printf ai-shim >/proc/self/comm
keep_stdin=$1; shift
STEP='wait for go'; echo caged >&3; read -r go <&3; [ "$go" = go ]
exec 2>&4 4>&- 3>&-
[ "$keep_stdin" = keep ] || exec </dev/null
trap - EXIT
exec "$@"
"""

# ulimit's letters; both soft and hard are set, except for nofile, where an agent may raise its own soft limit again.
_LIMITS = {"data": ("-d", 1024), "core": ("-c", 1), "nofile": ("-Sn", 1)}


def command(
    argv: Sequence[str],
    *,
    join_files: Sequence[str],
    rlimits: Sequence[tuple[str, int]],
    oom_score_adj: int | None,
    become: Sequence[str],
    keep_stdin: bool,
) -> list[str]:
    """Return the argv that cages itself and then becomes `argv`.

    `become` is a program with arguments that executes the rest as somebody else (setpriv), empty for nobody else. rlimits
    are rounded up to the unit of ulimit.
    """
    limits: list[str] = []
    for name, value in rlimits:
        letter, unit = _LIMITS[name]
        limits += [letter, str(-(-value // unit))]
    enter = [*join_files, "--", *limits, "--", "" if oom_score_adj is None else str(oom_score_adj)]
    hold = ["keep" if keep_stdin else "null", *argv]
    if not become:
        return ["/bin/sh", "-c", _ENTER + _HOLD, "sh", *enter, *hold]
    return ["/bin/sh", "-c", _ENTER + _BECOME_USER, "sh", *enter, *become, "/bin/sh", "-c", _HOLD, "sh", *hold]
