#!/bin/bash
# Installs what the tests need and is missing, then checks everything: formatting, lints, house rules, licences, tests.
# Needs Debian, root and Rust with cargo. Starts no service and leaves none running.
#
#   ./test.sh            everything
#   ./test.sh NAME...    only tests whose names contain NAME (after the same preparation)
set -euo pipefail
cd "$(dirname "$0")"

if [ "$(id -u)" != 0 ]; then
    echo "test.sh: the tests make namespaces, mounts and cgroups and need root: sudo -E env PATH=\"\$PATH\" ./test.sh" >&2
    exit 1
fi

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# What is run by the tests, and the package that it comes in.
needed() {
    while read -r program package; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" > /dev/null || echo "$package"
    done <<'LIST'
cc gcc
busybox busybox-static
ctr containerd
docker docker.io
dockerd docker.io
docker-registry docker-registry
mmdebstrap mmdebstrap
nft nftables
podman podman
strace strace
umoci umoci
ip iproute2
iptables-restore iptables
unshare util-linux
LIST
    /usr/bin/python3 -c 'import docker' 2> /dev/null || echo python3-docker
    # A busybox that needs libraries cannot be an image by itself.
    if busybox=$(command -v busybox) && ! dpkg-query -W busybox-static > /dev/null 2>&1 && ldd "$busybox" > /dev/null 2>&1; then
        echo busybox-static
    fi
}

install_needed() {
    local packages
    packages=$(needed | sort -u | tr '\n' ' ')
    [ -z "${packages// /}" ] && return
    step "installing $packages"
    # Debian starts a service that it installs unless this says no.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq < /dev/null
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $packages < /dev/null > /dev/null
}

# CRIU of version 4 or later, which Debian 12 does not have: of an unstable Debian, unpacked under target/ from the mirror that
# this machine uses, and run with its own libraries. Where it cannot be had, the tests that need it say so.
prepare_criu() {
    criu --version 2> /dev/null | grep -q 'Version: [4-9]' && return
    local cache=$PWD/target/test-images/criu mirror
    mkdir -p "$cache/bin"
    if [ ! -x "$cache/root/usr/sbin/criu" ]; then
        step "unpacking CRIU"
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
        rm -rf "$cache/part"
        mmdebstrap --quiet --variant=extract --include=criu --aptopt='Acquire::Check-Valid-Until "false"' \
            sid "$cache/part" "$mirror" < /dev/null || return 0
        mv "$cache/part" "$cache/root"
    fi
    local loader
    loader=$(echo "$cache"/root/usr/lib/*-linux-gnu/ld-linux-*.so.*)
    cat > "$cache/bin/criu" <<WRAPPER
#!/bin/sh
exec "$loader" --argv0 criu --library-path "${loader%/*}" "$cache/root/usr/sbin/criu" "\$@"
WRAPPER
    chmod 755 "$cache/bin/criu"
    PATH="$cache/bin:$PATH"
}

install_needed
prepare_criu
export BRIG_SKIPS="$PWD/target/skips.txt"
mkdir -p target
: > "$BRIG_SKIPS"

if [ $# = 0 ]; then
    step "formatting"
    cargo fmt --all --check
    step "house rules"
    cargo xtask tidy
    step "lints"
    cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
    step "licences and advisories"
    if cargo deny --version > /dev/null 2>&1; then
        cargo deny --offline check licenses bans sources || cargo deny check licenses bans sources
    else
        echo "SKIP: cargo-deny is not installed" | tee -a "$BRIG_SKIPS"
    fi
    cargo xtask licences
fi
step "building"
# Examples are programs under test; `cargo test --examples` would make tests of them.
cargo build --quiet --locked --workspace --bins --examples
step "tests"
status=0
output=$(mktemp)
# No documentation tests: there are none, and their "0 passed" would be the last word.
timeout -k 20 2700 cargo test --quiet --locked --workspace --lib --bins --tests --no-fail-fast -- "$@" 2>&1 | tee "$output" || status=$?
if [ $# = 0 ] && [ "$status" = 0 ]; then
    step "an older kernel with cgroup version 2, in a guest"
    tests/guest/run.sh || status=$?
fi
step "done"
if [ -s "$BRIG_SKIPS" ]; then
    sort -u "$BRIG_SKIPS"
fi
awk -v skipped="$(sort -u "$BRIG_SKIPS" | wc -l)" '/^test result: / { passed += $4; failed += $6 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$output"
rm -f "$output"
exit "$status"
