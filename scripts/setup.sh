# shellcheck shell=sh
# Sourced by the scripts beside it: makes the virtual environment they all use, from Python 3.11 and the locks alone.
#
#   setup_venv base|dev     create or refresh $VENV (default: .venv in the checkout); sets $PY
#   check_engine            end at once where the machine lacks what the embedded engine needs, before anything is fetched
#   setup_engine            bring the embedded engine and its model into $VENV
#   setup_clients           bring the SDKs that tests run as agents into $VENV/clients, an environment of their own
#
# Nothing is done twice: a stamp holds the checksum of what was installed, so a second run takes well under a second.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 2
}

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3 python3.12 python3.13 python3.14; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

check_engine() {
    python=$(find_python) || die "ai-supervisor needs Python 3.11 or newer, and its engine libgomp: $(apt_line python3 python3-venv libgomp1)"
    missing=
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="python3-venv"
    "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing="$missing libgomp1"
    # shellcheck disable=SC2086 # one word a package
    [ -z "$missing" ] || die "this machine lacks something: $(apt_line $missing)"
}

apt_line() {
    printf 'apt-get install -y %s (as root; on a fresh system after apt-get update)' "$*"
}

setup_venv() {
    lock=$ROOT/requirements/$1.lock
    PY=$VENV/bin/python
    stamp=$VENV/.installed-$1
    want=$(cksum <"$lock"; cksum <"$ROOT/pyproject.toml"; printf '%s' "$ROOT")
    if [ -x "$PY" ] && [ -x "$VENV/bin/ai-supervisor" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
        return 0
    fi
    python=$(find_python) || die "ai-supervisor needs Python 3.11 or newer: $(apt_line python3 python3-venv)"
    if [ ! -x "$PY" ]; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || die "Python's venv module is missing: $(apt_line python3-venv)"
        say "making a virtual environment in $VENV"
        "$python" -m venv "$VENV" || die "could not make $VENV"
    fi
    say "installing the locked packages ($1.lock)"
    "$PY" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$lock" || die "pip could not install $lock"
    if [ "$1" = dev ]; then
        "$PY" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e "$ROOT" || die "pip could not install the project"
    else
        # No build step for those who only want to see it work: the package is pure Python.
        site=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\n' "$ROOT" >"$site/ai-supervisor-checkout.pth"
        # -P: what lies in the folder where the command is typed is none of its modules.
        printf '#!/bin/sh\nexec "%s" -P -m supervisord_ai "$@"\n' "$PY" >"$VENV/bin/ai-supervisor"
        chmod +x "$VENV/bin/ai-supervisor"
    fi
    printf '%s' "$want" >"$stamp"
}

setup_engine() {
    "$PY" -m supervisord_ai engine install
}

setup_clients() {
    clients=$VENV/clients
    npm=
    if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; then npm=yes; fi
    want=$(cksum <"$ROOT/requirements/clients.lock"; cksum <"$ROOT/tests/system/node/package-lock.json"; printf '%s' "$npm")
    if [ -f "$clients/.installed" ] && [ "$(cat "$clients/.installed")" = "$want" ]; then
        return 0
    fi
    say "installing the SDKs that tests run as agents (clients.lock)"
    "$PY" -m venv "$clients" || die "could not make $clients"
    "$clients/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        -r "$ROOT/requirements/clients.lock" || die "pip could not install clients.lock"
    if [ -n "$npm" ]; then
        cp "$ROOT/tests/system/node/package.json" "$ROOT/tests/system/node/package-lock.json" "$clients/"
        npm ci --silent --no-audit --no-fund --prefix "$clients" >&2 || say "npm could not install ollama-js: its tests are skipped"
    fi
    printf '%s' "$want" >"$clients/.installed"
}
