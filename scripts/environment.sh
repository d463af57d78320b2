# Sourced by the other scripts: makes or reuses .venv in the repository and puts it first on PATH.
# Usage: source scripts/environment.sh [extra]     extra: an optional-dependency group such as "test"

bucketmod_environment() {
    local extra="${1:-}" python candidate stamp wanted
    local root="$PWD"
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
    if [ -z "${python:-}" ]; then
        echo "bucketmod needs Python 3.10, 3.11 or 3.12 with the venv module; none was found (set PYTHON to name one)" >&2
        return 1
    fi
    [ -x .venv/bin/python ] || { echo "== making .venv with $($python --version)"; "$python" -m venv .venv; }
    stamp=".venv/installed-${extra:-base}"
    wanted="$(cat pyproject.toml setup.py | cksum) $root"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "== installing bucketmod${extra:+ with [$extra]} into .venv (first time: a few hundred MB)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" || return 1
        echo "$wanted" > "$stamp"
    fi
    export PATH="$root/.venv/bin:$PATH"
    # Compiled buckets are kept in the checkout, so that a second run compiles nothing.
    export BUCKETMOD_CACHE="${BUCKETMOD_CACHE:-$root/.bucketmod-cache}"
}

bucketmod_environment "$@"
