#!/bin/sh
# Process 1 of a machine of `cargo xtask test vm`: what a system has mounted, then the tests, then the end.
# The kernel passes `report` (where results go) from its command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t tracefs trace /sys/kernel/tracing
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "module $module: not loaded"
done
ip link set lo up
# Tests make their cgroups below the one that they are in, never at the root.
mkdir /sys/fs/cgroup/tests
(
    read -r own _ </proc/self/stat
    echo "$own" >/sys/fs/cgroup/tests/cgroup.procs
    exec sh /t/run.sh
) >"$report" 2>&1
sync
# Orderly, so that QEMU ends: `poweroff` belongs to an init system.
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
sleep 60
