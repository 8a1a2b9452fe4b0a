# shellcheck shell=bash
# Functions that the scripts share. Sourced by them, not run.

# nft, ip and keepalived are there, and the PATH of an ordinary user often is not.
export PATH="$PATH:/usr/sbin:/sbin"
if ! command -v cargo >/dev/null && [[ -x "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo" ]]; then
    export PATH="${CARGO_HOME:-${HOME:-}/.cargo}/bin:$PATH"
fi

MIN_RUST=1.88

# Progress and complaints go to standard error: standard output belongs to the programs.
say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "error: $*"
    exit 1
}

is_root() {
    ((EUID == 0))
}

# Whether as_root can work. Never asks for a password.
can_be_root() {
    is_root || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# as_root COMMAND…: runs it as root, or returns 1 when this user cannot without a password.
as_root() {
    if is_root; then
        "$@"
    elif can_be_root; then
        sudo -n -- "$@"
    else
        return 1
    fi
}

# What a command is needed for, for people who have to install it themselves.
purpose() {
    case $1 in
        cc) echo "a C compiler and linker, to build Rust programs" ;;
        c++) echo "a C++ compiler, to build the Lua that flip brings along" ;;
        nft) echo "nftables, to lose and delay packets in the network-namespace lab" ;;
        ip) echo "iproute2, to look at addresses from outside" ;;
        keepalived) echo "keepalived, to compare flip with it" ;;
        pg_ctlcluster) echo "PostgreSQL, to try health checks on it" ;;
        pgbouncer) echo "pgbouncer, to try health checks on it" ;;
        chromedriver) echo "Chromium and its driver, to look at the page" ;;
        tmux) echo "tmux, to try the terminal view" ;;
        setpriv) echo "util-linux, to run PostgreSQL without rights" ;;
        *) echo "the command $1" ;;
    esac
}

apt_updated=no
apt_update() {
    [[ $apt_updated == no ]] || return 0
    as_root apt-get -qq update >&2 || return 1
    apt_updated=yes
}

# Three attempts: mirrors have bad moments, and lists that are too old name packages that are gone.
apt_install() {
    local attempt
    apt-cache show --no-all-versions "$@" >/dev/null 2>&1 || apt_update || true
    for attempt in 1 2 3; do
        if ((attempt > 1)); then
            say "apt-get failed, attempt $attempt of 3"
            sleep $((2 * attempt))
            apt_update || true
        fi
        if as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq -o DPkg::Lock::Timeout=60 install -y --no-install-recommends "$@" >&2; then
            return 0
        fi
    done
    return 1
}

# need_package COMMAND PACKAGE…: makes sure that the command is there; installs the packages when it is
# not, this is Debian or a relative, and we may. Otherwise says what is missing and returns 1.
need_package() {
    local command=$1
    shift
    ! command -v "$command" >/dev/null || return 0
    if command -v apt-get >/dev/null && can_be_root; then
        say "installing $*: $(purpose "$command")"
        if apt_install "$@"; then
            hash -r
            ! command -v "$command" >/dev/null || return 0
        fi
    fi
    say "missing: the command $command ($(purpose "$command"))"
    if command -v apt-get >/dev/null; then
        say "install it as root: apt-get install --no-install-recommends $*"
    else
        say "install it with the packages of this system; on Debian they are: $*"
    fi
    return 1
}

# Debian starts what it installs; only the program is wanted, not the service.
need_keepalived() {
    ! command -v keepalived >/dev/null || return 0
    need_package keepalived keepalived || return 1
    if command -v systemctl >/dev/null; then
        as_root systemctl disable --quiet --now keepalived.service || say "cannot stop keepalived.service"
    fi
}

# The same for databases; pg_ctlcluster is Debian's, and tells that some version is there.
need_postgres() {
    need_package setpriv util-linux || return 1
    if ! command -v pg_ctlcluster >/dev/null; then
        need_package pg_ctlcluster postgresql || return 1
        if command -v systemctl >/dev/null; then
            as_root systemctl disable --quiet --now postgresql.service || say "cannot stop postgresql.service"
        fi
    fi
    if ! command -v pgbouncer >/dev/null; then
        need_package pgbouncer pgbouncer || return 1
        if command -v systemctl >/dev/null; then
            as_root systemctl disable --quiet --now pgbouncer.service || say "cannot stop pgbouncer.service"
        fi
    fi
}

# Makes sure that there is a cargo that can build flip, or says how to get one and returns 1.
need_rust() {
    local version
    if ! command -v cargo >/dev/null; then
        say "missing: Rust $MIN_RUST or later; https://rustup.rs says how to get it, in one command"
        return 1
    fi
    if ! version=$(cargo --version); then
        say "cargo does not run; with rustup, this gives it a toolchain: rustup default stable"
        return 1
    fi
    if ! [[ $version =~ ^cargo\ ([0-9]+)\.([0-9]+) ]]; then
        say "cannot read the version of cargo from: $version"
        return 1
    fi
    if ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] < ${MIN_RUST%.*} * 1000 + ${MIN_RUST#*.})); then
        say "found $version, expected $MIN_RUST or later"
        say "with rustup: rustup update stable; without it, see https://rustup.rs"
        return 1
    fi
}

# build ARGUMENTS…: cargo build --release, with its progress only where somebody sees it.
build() {
    local quiet=()
    [[ -t 2 ]] || quiet=(--quiet)
    cargo build --release "${quiet[@]}" "$@"
}

# Where `build` puts the programs.
release_dir() {
    echo "${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}/release"
}
