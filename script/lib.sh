# shellcheck shell=bash
# What the scripts beside this file share. Sourced, never run: it sets `root` and defines functions, and does nothing else.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where Debian keeps runc and dockerd; not on everybody's PATH

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    [ $# -lt 2 ] || say "next: $2"
    exit 1
}

# Runs a command as root: directly, or through sudo, which may ask for a password only where somebody can type one.
# The environment goes along: proxies and package indexes are named there.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        if [ -t 0 ] && [ -z "${CI:-}" ]; then sudo -E "$@"; else sudo -n -E "$@"; fi
    else
        die "this needs root, and there is no sudo: $*" "Run it as root, or install sudo."
    fi
}

# need THING… where a THING is COMMAND:PACKAGE, or FILE:PACKAGE: installs the Debian packages of those that are missing.
need() {
    local thing missing=()
    for thing in "$@"; do
        case $thing in
            /*) [ -e "${thing%%:*}" ] || missing+=("${thing##*:}") ;;
            *) command -v "${thing%%:*}" >/dev/null || missing+=("${thing##*:}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    install_packages "${missing[@]}"
}

# The package lists may be absent or old (a fresh machine, a cloud image): they are fetched only when installing fails.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*" "Install them with your distribution's package manager."
    say "installing Debian packages: $*"
    apt_install "$@" >/dev/null 2>&1 && return
    say "updating the package lists"
    as_root apt-get update -qq >&2 || say "warning: apt-get update failed; trying with the lists at hand"
    apt_install "$@" >&2 || die "these Debian packages could not be installed: $*" \
        "Install them yourself and run this again; what apt said is above."
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# Prints the first Python that is new enough.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# venv runtime|dev: makes .venv hold exactly the pinned packages of that file of requirements/, and this project, editable.
# A stamp holds what it was made from, so that the second time costs one comparison. dev contains runtime.
venv() {
    ! venv_is_made "$1" || return 0
    mkdir -p "$root/.state"
    {
        flock 9 # two scripts started at once make it once
        venv_is_made "$1" || make_venv "$1"
    } 9>"$root/.state/venv.lock"
}

venv_is_made() {
    local made
    for made in "$1" dev; do
        if [ "$(cat "$root/.venv/made-from-$made" 2>/dev/null)" = "$(venv_inputs "$made")" ]; then return 0; fi
    done
    return 1
}

venv_inputs() { echo "$root" && cat "$root/requirements/$1.txt" "$root/pyproject.toml"; }

make_venv() {
    local python
    python=$(find_python) || { install_packages python3 && python=$(find_python); } ||
        die "Python 3.11 or later is needed" "Install python3.11 or a later one."
    say "making .venv for $("$python" --version)"
    rm -rf "$root/.venv"
    if ! "$python" -m venv "$root/.venv" >/dev/null 2>&1; then
        # Debian keeps a part of the module in a package of its own, named after the interpreter.
        install_packages "$(basename "$(realpath "$python")")-venv"
        rm -rf "$root/.venv"
        "$python" -m venv "$root/.venv" >&2 || die "$python cannot make a virtual environment" "What it said is above."
    fi
    # pip's warnings (-qq) are about the machine's own settings. setuptools is among the pinned packages: making the
    # project itself importable needs no network.
    "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check -r "$root/requirements/$1.txt" >&2 ||
        die "the packages of requirements/$1.txt could not be installed" "What pip said is above."
    "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --editable "$root" >&2 || die "this project could not be installed into .venv"
    venv_inputs "$1" >"$root/.venv/made-from-$1"
}
