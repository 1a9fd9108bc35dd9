# Sourced by scripts/test and scripts/demo: finds a Python and makes a virtual environment with this project in it.
# Sets PROJECT to the project's directory, and defines say, fail and environment.

PROJECT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
cd "$PROJECT" || exit 1

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
    exit 1
}

# behind NAME: the programs that a version manager's command of that name may stand for (pyenv's fails where the version
# that has it is not the one chosen here).
behind() {
    case $(command -v "$1" 2>/dev/null) in
        */pyenv*/shims/* | */.pyenv/shims/*) pyenv whence --path "$1" 2>/dev/null ;;
    esac
}

# A Python of 3.11 or later that can make virtual environments, in FOUND.
find_python() {
    for NAME in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        for FOUND in "$NAME" $(behind "$NAME"); do
            if "$FOUND" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
                return
            fi
        done
    done
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c 'import sys, venv, ensurepip; print("it is Python", sys.version.split()[0])' >&2
        fail "$PYTHON is no Python of 3.11 or later with venv and ensurepip; what it says stands above."
    fi
    fail "no Python of 3.11 or later with venv and ensurepip found; install one (on Debian: python3 and python3-venv)," \
        "or name it: PYTHON=/path/to/python $0"
}

pip() {
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

# environment DIRECTORY [pip's words...]: make the virtual environment, unless it has been made from this pyproject.toml.
# Its commands come first on the path afterwards.
environment() {
    case $1 in
        /*) VENV=$1 ;;
        *) VENV=$PROJECT/$1 ;;
    esac
    shift
    WANTED="$(cksum pyproject.toml) $*"
    VERSION='import sys; print(*sys.version_info[:2])'
    if [ -n "${PYTHON:-}" ] && [ -x "$VENV/bin/python" ]; then
        find_python
        if [ "$("$FOUND" -c "$VERSION")" != "$("$VENV/bin/python" -c "$VERSION" 2>&1)" ]; then
            rm -rf "$VENV"
        fi
    fi
    if ! "$VENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
        find_python
        say "virtual environment: $("$FOUND" --version) in $VENV"
        rm -rf "$VENV"
        "$FOUND" -m venv "$VENV" || fail "the virtual environment cannot be made."
    fi
    if [ "$(cat "$VENV/.installed" 2>/dev/null)" != "$WANTED" ]; then
        say "pip install $*"
        case " $* " in
            *" --group "*)
                # Dependency groups came with pip 25.1; what a Python ships may be older.
                if ! pip install --help | grep -q -e --group; then
                    pip install --quiet --upgrade pip || fail "pip cannot be upgraded."
                fi
                ;;
        esac
        pip install --quiet "$@" || fail "the installation failed."
        printf '%s' "$WANTED" >"$VENV/.installed"
    fi
    PATH=$VENV/bin:$PATH
    export PATH
}
