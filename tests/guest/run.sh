#!/bin/bash
# Boots Debian's own kernel (6.1, cgroup version 2 only) under emulation and runs brig in it: what the machine that runs
# the other tests may not have. Once with a shell script as the first process, once with systemd.
#
#   tests/guest/run.sh [--all] [plain|systemd] [FOLDER WITH brig AND brig-rt]
#
# Without --all both guests leave out the test suites of containers, which take long under emulation: the same programs
# that `cargo test` runs on this machine. Installs what it needs and is missing; needs root, brig and brig-rt, and cargo
# for --all. Kernel and Debian are kept in target/test-images.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
images=$top/target/test-images
all=
guests=()
programs=
for word in "$@"; do
    case $word in
        --all) all=yes ;;
        plain | systemd) guests+=("$word") ;;
        *) programs=$word ;;
    esac
done
[ ${#guests[@]} = 0 ] && guests=(plain systemd)
programs=${programs:-${CARGO_TARGET_DIR:-$top/target}/x86_64-unknown-linux-gnu/debug}
limit=300
[ -z "$all" ] || limit=1500
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_needed() {
    local packages=()
    command -v qemu-system-x86_64 > /dev/null || packages+=(qemu-system-x86)
    command -v mke2fs > /dev/null || packages+=(e2fsprogs)
    command -v depmod > /dev/null || packages+=(kmod)
    command -v cpio > /dev/null || packages+=(cpio)
    command -v busybox > /dev/null || packages+=(busybox-static)
    command -v mmdebstrap > /dev/null || packages+=(mmdebstrap)
    [ ${#packages[@]} = 0 ] && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq < /dev/null
    apt-get install -y -qq --no-install-recommends "${packages[@]}" < /dev/null > /dev/null
}

# The kernel that Debian's cloud package stands for, unpacked, not installed.
fetch_kernel() {
    apt-cache show linux-image-cloud-amd64 > /dev/null 2>&1 || apt-get update -qq < /dev/null
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
    kernel=$images/$package
    if [ ! -d "$kernel" ]; then
        mkdir -p "$images" "$work/package"
        chmod 755 "$work"
        (cd "$work/package" && apt-get download -qq "$package" > /dev/null 2>&1 && dpkg -x ./*.deb "$work/kernel")
        depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
        mv "$work/kernel" "$kernel"
    fi
    release=$(ls "$kernel/lib/modules")
}

# Debian with systemd and what a user's own systemd needs; nothing else that would start.
fetch_debian() {
    debian=$images/systemd-bookworm.tar
    [ ! -e "$debian" ] || return 0
    mkdir -p "$images"
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,kmod,uidmap,iproute2 \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='APT::Install-Recommends "false"' bookworm "$work/debian.tar"
    mv "$work/debian.tar" "$debian"
}

# The programs under test, where they are asked for: test suites look for brig-rt where it was built.
add_programs() {
    local root=$1 built program suite
    built=$(cd "$programs" && pwd)
    mkdir -p "$root$built" "$root/suites"
    for program in brig brig-rt; do
        cp "$programs/$program" "$root/usr/bin/"
        strip "$root/usr/bin/$program"
        ln -s "/usr/bin/$program" "$root$built/$program"
    done
    [ -n "$all" ] || return 0
    (cd "$top" && cargo test --quiet --locked -p brig-runtime -p brig-shim --no-run --message-format=json) |
        sed -n 's/.*"src_path":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
        while read -r source program; do
            case $source in
                */runtime/tests/containers/*) suite=runtime-containers ;;
                */runtime/src/lib.rs) suite=runtime-units ;;
                */shim/tests/*/main.rs) suite=shim-$(basename "${source%/main.rs}") ;;
                */shim/tests/*) suite=shim-$(basename "$source" .rs) ;;
                *) continue ;;
            esac
            cp "$program" "$root/suites/$suite"
            strip "$root/suites/$suite"
        done
}

add_busybox() {
    local root=$1 applet
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [ -e "$root/bin/$applet" ] || [ -e "$root/sbin/$applet" ] || ln -s busybox "$root/bin/$applet"
    done
    # The image that the guest imports: a busybox and its links.
    mkdir -p "$work/image"/{bin,etc,tmp,root}
    cp "$root/bin/busybox" "$work/image/bin/"
    for applet in sh cat echo id ls head tail touch mkdir mknod sleep httpd wc; do
        ln -sf busybox "$work/image/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' > "$work/image/etc/passwd"
    tar -C "$work/image" --numeric-owner --owner 0 --group 0 -cf "$root/image.tar" .
}

make_plain() {
    local root=$1
    mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,tmp,etc,root,var/lib,var/log,lib/modules}
    chmod 1777 "$root/tmp"
    ln -s . "$root/usr"
    ln -s ../bin/busybox "$root/sbin/modprobe"
    add_busybox "$root"
    cp "$work/image/etc/passwd" "$root/etc/passwd"
    install -m 755 "$here/inside.sh" "$root/init.sh"
}

make_systemd() {
    local root=$1 unit
    fetch_debian
    mkdir -p "$root"
    tar -C "$root" --numeric-owner -xpf "$debian"
    mkdir -p "$root/image"
    add_busybox "$root"
    install -m 755 "$here/inside-systemd.sh" "$root/inside.sh"
    echo guest > "$root/etc/hostname"
    : > "$root/etc/fstab"
    # Nothing clears /tmp at boot: the programs may have been built below it.
    mkdir -p "$root/etc/tmpfiles.d"
    ln -s /dev/null "$root/etc/tmpfiles.d/tmp.conf"
    cat > "$root/etc/systemd/system/guest.service" << 'UNIT'
[Unit]
Description=brig under test
After=dbus.service systemd-logind.service
[Service]
ExecStart=/inside.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Delegate=yes
[Install]
WantedBy=multi-user.target
UNIT
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../guest.service "$root/etc/systemd/system/multi-user.target.wants/guest.service"
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer getty.target serial-getty@ttyS0.service systemd-timesyncd.service systemd-networkd.service \
        systemd-resolved.service systemd-tmpfiles-clean.timer; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    ln -s /sbin/init "$root/init.sh"
}

make_disk() {
    local guest=$1 root=$work/$1
    "make_$guest" "$root"
    mkdir -p "$root/lib/modules"
    cp -r "$kernel/lib/modules/$release" "$root/lib/modules/"
    add_programs "$root"
    cp "$here/checks.sh" "$root/checks.sh"
    mke2fs -q -t ext4 -d "$root" "$work/$guest.img" 2500M > /dev/null
    rm -rf "$root"
}

make_initramfs() {
    local root=$work/init module
    mkdir -p "$root"/{bin,modules,new,dev}
    cp "$(command -v busybox)" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    for name in virtio_pci virtio_blk ext4; do
        modprobe -d "$kernel" -S "$release" --show-depends "$name" 2> /dev/null | awk '/^insmod/ { print $2 }'
    done | awk '!seen[$0]++' | while read -r module; do
        cp "$module" "$root/modules/"
        basename "$module" >> "$root/order"
    done
    cat > "$root/init" << 'INIT'
#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do /bin/busybox sleep 0.1; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount --move /dev /new/dev
exec /bin/busybox switch_root /new /init.sh
INIT
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio -o -H newc 2> /dev/null | gzip -1) > "$work/initrd.gz"
}

# Emulation, never the host's KVM: what that offers differs from machine to machine, and some hang.
boot() {
    local guest=$1 said=$work/$1.said
    timeout "$limit" qemu-system-x86_64 -machine q35 -accel tcg -cpu max -m 2048 -smp 2 -nographic -no-reboot -net none \
        -kernel "$kernel/boot/vmlinuz-$release" -initrd "$work/initrd.gz" \
        -drive "file=$work/$guest.img,format=raw,if=virtio,cache=unsafe" -append "console=ttyS0 quiet panic=-1" \
        < /dev/null > "$work/$guest.console" 2>&1 || true
    # Without the firmware's clearing of the screen.
    sed 's/\r//g; s/^.*guest: Linux/guest: Linux/' "$work/$guest.console" > "$said"
    sed -n '/^guest: Linux/,/^guest: done/p' "$said"
    if ! grep -q '^guest: done' "$said"; then
        tail -20 "$said" >&2
        echo "guest: it did not come to its end within $limit s" >&2
        return 1
    fi
    ! grep -q '^FAIL' "$said"
}

install_needed
fetch_kernel
make_initramfs
status=0
for guest in "${guests[@]}"; do
    start=$SECONDS
    make_disk "$guest"
    echo "guest $guest: made in $((SECONDS - start)) s"
    start=$SECONDS
    boot "$guest" || status=1
    echo "guest $guest: ran for $((SECONDS - start)) s"
done
exit "$status"
