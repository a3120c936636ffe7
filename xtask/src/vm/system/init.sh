#!/bin/busybox sh
# Process 1 of a whole system until its disks are mounted: vda its root, vdb its kernel's modules, vdc the payload.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do
    busybox insmod "/modules/$module"
done
until [ -b /dev/vdc ]; do busybox usleep 10000; done
busybox mount -t ext4 -o noatime /dev/vda /system
busybox mount -t ext4 -o ro /dev/vdb /system/lib/modules
# systemd keeps a /run that is mounted already.
busybox mount -t tmpfs -o mode=755 run /system/run
busybox mkdir /system/run/payload
busybox mount -t ext4 -o ro /dev/vdc /system/run/payload
for place in dev sys proc; do busybox mount --move "/$place" "/system/$place"; done
exec busybox switch_root /system /sbin/init
