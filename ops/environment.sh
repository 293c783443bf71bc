# Sourced by the scripts beside it: prepares .venv at the top of the repository.
#
#   prepare_environment demo     what running needs
#   prepare_environment test     that, the test tools and the linters
#
# The second call is fast: a stamp in .venv holds the hash of what was installed.
# PYTHON names the interpreter to use; a .venv that exists is kept.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate found=""
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
        found=${found:-$("$candidate" --version 2>/dev/null || true)}
    done
    fail "Python 3.11 or newer is needed; found ${found:-none}. Install one, or set PYTHON=/path/to/python."
}

need_disk() {
    local megabytes=$1 free
    free=$(df -Pk "$ROOT" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$megabytes" ] || fail "$megabytes MB of disk are needed in $ROOT; $free MB are free."
}

create_venv() {
    if [ ! -e "$VENV" ]; then
        local python
        python=$(find_python) || exit 1
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
        "$python" -m venv "$VENV" || fail "the virtual environment $VENV could not be made."
    fi
    is_new_enough "$VENV/bin/python" ||
        fail "$VENV has no working Python 3.11 or newer. Remove it and run this again."
    # An environment made by another tool, or in a run that was interrupted, may lack pip.
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null 2>&1 ||
        fail "$VENV has no pip. Remove it and run this again."
}

install_packages() {
    local extras=$1 log
    log=$(mktemp)
    echo "preparing $VENV (once; this takes a minute or two) ..." >&2
    if ! "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e "$ROOT[$extras]" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        if grep -qiE 'NewConnectionError|name resolution|timed out|unreachable|ProxyError|Max retries|from versions: none' "$log"; then
            rm -f "$log"
            fail "packages could not be downloaded: a network and a Python package index are needed."
        fi
        rm -f "$log"
        fail "packages could not be installed; see above."
    fi
    rm -f "$log"
}

# What an installed environment depends on: the declared packages, the interpreter and where it lies.
fingerprint() {
    { cat "$ROOT/pyproject.toml" && "$VENV/bin/python" --version && echo "$ROOT"; } | cksum
}

prepare_environment() {
    local purpose=$1 extras=embedded megabytes=250
    if [ "$purpose" = test ]; then
        extras=embedded,test
        megabytes=600
    fi
    local stamp=$VENV/.millstream-$purpose
    if [ -e "$stamp" ] && is_new_enough "$VENV/bin/python" && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
        return
    fi
    need_disk "$megabytes"
    create_venv
    install_packages "$extras"
    fingerprint >"$stamp"
    if [ "$purpose" = test ]; then
        fingerprint >"$VENV/.millstream-demo"
    fi
}
