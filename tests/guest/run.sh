#!/bin/bash
# Boots Debian's own kernel (6.1, cgroup version 2 only) under emulation and runs brig in it: what the machine that runs
# the other tests may not have. Installs what it needs and is missing; needs root, and brig and brig-rt in the folder given.
#
#   tests/guest/run.sh [FOLDER WITH brig AND brig-rt]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=${1:-${CARGO_TARGET_DIR:-$here/../../target}/x86_64-unknown-linux-gnu/debug}
limit=300
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_needed() {
    local packages=()
    command -v qemu-system-x86_64 > /dev/null || packages+=(qemu-system-x86)
    command -v mke2fs > /dev/null || packages+=(e2fsprogs)
    command -v depmod > /dev/null || packages+=(kmod)
    command -v cpio > /dev/null || packages+=(cpio)
    command -v busybox > /dev/null || packages+=(busybox-static)
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
    (cd "$work" && chmod 755 . && apt-get download -qq "$package" > /dev/null 2>&1 && dpkg -x ./*.deb kernel)
    release=$(ls "$work/kernel/lib/modules")
    depmod -b "$work/kernel" "$release"
}

make_disk() {
    local root=$work/root
    mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,tmp,etc,root,var/lib,lib/modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
    done
    ln -s ../bin/busybox "$root/sbin/modprobe"
    cp -r "$work/kernel/lib/modules/$release" "$root/lib/modules/"
    # The image that the guest imports: a busybox and its links.
    mkdir -p "$work/image"/{bin,etc,tmp,root}
    cp "$root/bin/busybox" "$work/image/bin/"
    for applet in sh cat echo id ls head tail touch mkdir mknod sleep httpd wc; do ln -s busybox "$work/image/bin/$applet"; done
    echo 'root:x:0:0:root:/root:/bin/sh' | tee "$work/image/etc/passwd" > "$root/etc/passwd"
    tar -C "$work/image" --numeric-owner --owner 0 --group 0 -cf "$root/image.tar" .
    cp "$programs/brig" "$programs/brig-rt" "$root/bin/"
    strip "$root/bin/brig" "$root/bin/brig-rt"
    install -m 755 "$here/inside.sh" "$root/inside.sh"
    mke2fs -q -t ext4 -d "$root" "$work/disk.img" 1500M > /dev/null
}

make_initramfs() {
    local root=$work/init module
    mkdir -p "$root"/{bin,modules,new,dev}
    cp "$(command -v busybox)" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    for name in virtio_pci virtio_blk ext4; do
        modprobe -d "$work/kernel" -S "$release" --show-depends "$name" 2> /dev/null | awk '/^insmod/ { print $2 }'
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
exec /bin/busybox switch_root /new /inside.sh
INIT
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio -o -H newc 2> /dev/null | gzip -1) > "$work/initrd.gz"
}

install_needed
fetch_kernel
make_disk
make_initramfs
# Emulation, never the host's KVM: what that offers differs from machine to machine, and some hang.
timeout "$limit" qemu-system-x86_64 -machine q35 -accel tcg -cpu max -m 2048 -smp 2 -nographic -no-reboot -net none \
    -kernel "$work/kernel/boot/vmlinuz-$release" -initrd "$work/initrd.gz" \
    -drive "file=$work/disk.img,format=raw,if=virtio" -append "console=ttyS0 quiet panic=-1" \
    < /dev/null > "$work/console" 2>&1 || true
# Without the firmware's clearing of the screen.
sed 's/\r//g; s/^.*guest: Linux/guest: Linux/' "$work/console" > "$work/said"
sed -n '/^guest: Linux/,/^guest: done/p' "$work/said"
grep -q '^guest: done' "$work/said" || { tail -20 "$work/said" >&2; echo "guest: it did not come to its end within $limit s" >&2; exit 1; }
if grep -q '^FAIL' "$work/said"; then exit 1; fi
