#!/bin/sh
# What the guest with systemd runs as a service: containers whose cgroups systemd looks after, by root and by a user. Says PASS
# or FAIL for each check, and powers off.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
. /checks.sh
ip link set lo up
echo "guest: Linux $(uname -r), $(systemctl --version | head -1), cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"

# bundle DIRECTORY CGROUPSPATH RESOURCES [MORE OF linux]: a bundle whose program sleeps.
bundle() {
    mkdir -p "$1/rootfs"
    tar -C "$1/rootfs" -xf /image.tar
    mkdir -p "$1/rootfs/proc" "$1/rootfs/sys" "$1/rootfs/dev"
    cat > "$1/config.json" << JSON
{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "hostname": "box",
 "process": {"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}${5:-},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
  {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}],
 "annotations": {"org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.CollectMode": "'inactive-or-failed'"},
 "linux": {"cgroupsPath": "$2", "resources": $3${4:-},
  "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "cgroup"}${6:-}]}}
JSON
}

# script NAME LINES: a command, which a function is not.
script() { printf '#!/bin/sh\n%s\n' "$2" > "/usr/local/bin/$1"; chmod 755 "/usr/local/bin/$1"; }
script rt 'exec brig-rt --root /run/rt --systemd-cgroup "$@"'
script shown 'unit=$1; shift; for name in "$@"; do systemctl show -P "$name" "$unit"; done | tr "\n" " "'
script gone 'systemctl show -P LoadState "$1"; [ ! -e "/sys/fs/cgroup/$2" ]'
script as_user 'exec setpriv --reuid 1000 --regid 1000 --init-groups env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000 "$@"'

limits='{"memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432}, "cpu": {"shares": 512, "quota": 50000,
 "period": 100000, "cpus": "0"}, "pids": {"limit": 20}, "blockIO": {"weight": 500},
 "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}],
 "unified": {"memory.high": "50331648"}}'
bundle /b1 "machine.slice:brigtest:c1" "$limits"
scope=brigtest-c1.scope
dir=/sys/fs/cgroup/machine.slice/$scope
check "a container is created" "|0" rt create --bundle /b1 c1
check "in a scope in its slice" "machine.slice yes active running |0" shown $scope Slice Delegate ActiveState SubState
check "whose limits systemd knows" "67108864 33554432 33554432 50331648 59 20 500ms 100ms 0 4950 |0" shown $scope \
    MemoryMax MemorySwapMax MemoryLow MemoryHigh CPUWeight TasksMax CPUQuotaPerSecUSec CPUQuotaPeriodUSec AllowedCPUs IOWeight
check "and its annotations" "7s inactive-or-failed |0" shown $scope TimeoutStopUSec CollectMode
check "and devices" "strict|0" sh -c "systemctl show -P DevicePolicy $scope; systemctl show -P DeviceAllow $scope | grep -q '/dev/char/10:200 rw'"
check "the files say the same" "67108864 33554432 33554432 50331648 59 20 50000 100000 0|0" \
    sh -c "cd $dir; echo \$(cat memory.max memory.swap.max memory.low memory.high cpu.weight pids.max cpu.max cpuset.cpus)"
check "nobody but the container is in it" "1|0" sh -c "wc -l < $dir/cgroup.procs"
check "every controller is given to it" "$(cat /sys/fs/cgroup/cgroup.controllers)|0" cat $dir/cgroup.controllers
check "it starts" "|0" rt start c1
check "its scope is its root" "0::/|0" rt exec c1 cat /proc/self/cgroup
check "pause" "1|0" sh -c "brig-rt --root /run/rt pause c1; cat $dir/cgroup.freeze"
check "resume" "0|0" sh -c "brig-rt --root /run/rt resume c1; cat $dir/cgroup.freeze"
check "update" "|0" rt update --memory 33554432 --memory-swap 67108864 --memory-reservation 1000000 --pids-limit 30 --cpu-quota 60000 c1
check "update is in both" "33554432 33554432 30 30 600ms 60000 100000|0" sh -c "
    echo \$(systemctl show -P MemoryMax $scope; cat $dir/memory.max $dir/pids.max; systemctl show -P TasksMax $scope
    systemctl show -P CPUQuotaPerSecUSec $scope; cat $dir/cpu.max)"
check "what cannot be a property is said" "1|0" sh -c "rt update --cpuset-cpus 0-x c1 2>&1 | grep -c linux.resources.cpu.cpus"
check "limits outlive systemd's reload" "33554432 30|0" sh -c "systemctl daemon-reload; echo \$(cat $dir/memory.max $dir/pids.max)"
check "a second of its name is refused" "1|0" sh -c "rt create --bundle /b1 c2 2>&1 | grep -c \"container's cgroup is not empty\""
check "delete" "|0" rt delete --force c1
check "and the scope is gone" "not-found|0" gone $scope machine.slice/$scope
check "a limit of one process" "|0" sh -c 'sed "s/\"limit\": 20/\"limit\": 1/" -i /b1/config.json; rt create --bundle /b1 one'
check "is one process" "1 1|0" sh -c "echo \$(cat $dir/pids.max $dir/pids.current)"
check "and goes" "|0" rt delete --force one
bundle /b2 "" '{}'
check "without a path it is in the system's slice" "system.slice|0" sh -c '
    rt run --detach --bundle /b2 plain && systemctl show -P Slice brig-rt-plain.scope'
check "its program ends, and so does the scope" "not-found|0" sh -c '
    brig-rt --root /run/rt kill plain KILL; tries=0
    until [ "$(systemctl show -P LoadState brig-rt-plain.scope)" = not-found ] || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    systemctl show -P LoadState brig-rt-plain.scope; rt delete plain'
bundle /b3 "bad--slice.slice:p:x" '{}'
check "a bad slice is refused" "1|0" sh -c 'rt create --bundle /b3 bad 2>&1 | grep -c "invalid slice name: bad--slice.slice"'
bundle /b4 "machine.slice:brigtest:c4" '{"memory": {"limit": -7}}'
check "a failed create" "1|0" sh -c 'rt create --bundle /b4 c4 2>&1 | grep -c linux.resources.memory.limit'
check "leaves no scope" "not-found|0" systemctl show -P LoadState brigtest-c4.scope
sed 's/"type": "uint64 7"/&/; s/CollectMode": "[^"]*"/NoSuchThing": "true"/' -i /b2/config.json
check "what systemd does not know is said" "1|0" sh -c 'rt create --bundle /b2 c5 2>&1 | grep -c "unable to start unit .*brig-rt-c5.scope.*NoSuchThing"'

# A user of its own.
useradd -m -u 1000 user
loginctl enable-linger user
tries=0
until [ -S /run/user/1000/systemd/private ] || [ $tries -ge 300 ]; do sleep 0.1; tries=$((tries + 1)); done
maps=', "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]'
bundle /home/user/b "user.slice:brigtest:u1" '{"memory": {"limit": 67108864}, "pids": {"limit": 20}}' "$maps" "" ', {"type": "user"}'
chown -R user:user /home/user/b
check "a user's container" "|0" as_user brig-rt --root /run/user/1000/rt --systemd-cgroup run --detach --bundle /home/user/b u1
own=/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice/brigtest-u1.scope
check "is in the user's own tree" "67108864 20|0" sh -c "echo \$(cat $own/memory.max $own/pids.max)"
check "which the user's systemd knows" "67108864 20|0" sh -c \
    'echo $(as_user systemctl --user show -P MemoryMax brigtest-u1.scope; as_user systemctl --user show -P TasksMax brigtest-u1.scope)'
check "and goes" "|0" as_user brig-rt --root /run/user/1000/rt --systemd-cgroup delete --force u1
check "without a rest" "|1" test -e "$own"

suites
echo "guest: $passed passed, $failed failed"
echo "guest: done"
systemctl poweroff --force --force
