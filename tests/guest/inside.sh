#!/bin/sh
# The first process of the guest: mounts what a system has, runs brig, says PASS or FAIL for each check, and powers off.
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
. /checks.sh

echo "guest: Linux $(uname -r), cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
brig import /image.tar image > /dev/null 2>&1 || { tail -5 /run/brig/daemon.log; echo "FAIL import"; }
check "a container runs" "hello|0" brig run --rm image echo hello
check "root inside is nobody outside" "0 1073741824 65536|0" brig run --rm image sh -c 'echo $(cat /proc/self/uid_map)'
check "files belong to root inside" "0 0|0" brig run --rm image sh -c 'set -- $(ls -ln /bin/busybox); echo $3 $4'
check "limits are in its cgroup" "67108864 50000 100000 20|0" \
    brig run --rm -m 64m --cpus 0.5 --pids-limit 20 image \
    sh -c 'cd /sys/fs/cgroup; echo $(cat memory.max cpu.max pids.max)'
check "its cgroup is its root" "0::/|0" brig run --rm image cat /proc/self/cgroup
check "its cgroup cannot be written" "mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system|1" \
    brig run --rm image mkdir /sys/fs/cgroup/x
brig run -d --name hog -m 16m image sh -c 'head -c 100m /dev/zero | tail' > /dev/null 2>&1
check "a killed container has its code" "137|0" brig wait hog
check "and says that memory was short" "true|0" brig inspect -f '{{.State.OOMKilled}}' hog
brig rm hog > /dev/null
check "a device that was given can be read" "1|0" brig run --rm --device /dev/vda image sh -c 'head -c 1 /dev/vda | wc -c'
check "one that was not cannot" "head: /dev/vda: No such file or directory|1" brig run --rm image head -c 1 /dev/vda
check "nor by a privileged user of its own" "mknod: /tmp/vda: Operation not permitted|1" \
    brig run --rm --cap-add ALL image mknod /tmp/vda b 254 0
check "privileged means the host's users" "0 0 4294967295|0" \
    brig run --rm --privileged image sh -c 'echo $(cat /proc/self/uid_map)'
check "the host's root, read only" "/x|0" brig run --rm --rootfs / sh -c 'touch /x; ls /x'
check "and the host did not change" "ls: /x: No such file or directory|1" ls /x
brig run -d --name web -p 8080:80 image sh -c 'mkdir /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www' > /dev/null 2>&1
tries=0
until wget -q -O /dev/null http://127.0.0.1:8080/ 2> /dev/null || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
check "a published port answers" "page|0" wget -q -O - http://127.0.0.1:8080/
check "exec" "uid=0(root)|0" sh -c 'brig exec web id | sed "s/ gid.*//"'
check "pause" "web|0" brig pause web
check "a paused container is frozen" "frozen 1|0" sh -c 'grep frozen /sys/fs/cgroup/brig/*/cgroup.events'
check "unpause" "web|0" brig unpause web
check "update" "33554432|0" sh -c 'brig update -m 32m --memory-swap 64m web > /dev/null; cat /sys/fs/cgroup/brig/*/memory.max'
check "stop" "web|0" brig stop -t 1 web
check "remove" "web|0" brig rm web
check "no cgroup is left" "/sys/fs/cgroup/brig|0" find /sys/fs/cgroup/brig -type d
check "no veth is left" "|1" sh -c 'ip link | grep veth'
[ "$failed" = 0 ] || tail -20 /run/brig/daemon.log
suites
echo "guest: $passed passed, $failed failed"
echo "guest: done"
poweroff -f
