# boot.sh LOWER UPPER WORLD: becomes systemd, process 1 of the pid namespace that this runs in.
# Everything that it mounts is in a mount namespace of its own, which ends with it.
set -eu
lower=$1 upper=$2 world=$3
mount --make-rprivate /
root=$world/root
mkdir -p "$root" "$upper/work" "$upper/top"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper/top,workdir=$upper/work" "$root" 2>/dev/null || {
    # An overlay upon an overlay may be refused: a copy costs a second.
    cp -a "$lower/." "$root/"; cp -a "$upper/top/." "$root/"; mount --bind "$root" "$root"
}
cd "$root"
mount -t proc proc proc; mount -t sysfs sys sys
mount -t tmpfs -o mode=755 run run; mount -t tmpfs -o mode=1777 tmp tmp; mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
mkdir -p dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; touch dev/console
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
: > etc/machine-id
for unit in systemd-networkd-wait-online.service systemd-udevd.service systemd-resolved.service; do ln -sf /dev/null "etc/systemd/system/$unit"; done
ln -sf multi-user.target etc/systemd/system/default.target 2>/dev/null || true
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
exec env -i container=imds-guard PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /lib/systemd/systemd --system --show-status=1
