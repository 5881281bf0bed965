#!/bin/busybox sh
# Runs in the guest of the device tests: uses the disk, the network and the clock that it was given, then
# starts itself anew until it has lived often enough, which the disk remembers.
# The command line says dev.lives=N, dev.port=P for a server on the host, dev.disk=D for a file system that is
# not on /dev/vda, and dev.boot=B for a FAT with a hypervisor on it; both may have a star in them.
disk=/dev/vda
for word in $(cat /proc/cmdline); do
    case $word in
    dev.lives=*) lives=${word#*=} ;;
    dev.port=*) port=${word#*=} ;;
    dev.disk=*) disk=${word#*=} ;;
    dev.boot=*) boot=${word#*=} ;;
    esac
done
[ -n "$lives" ] || exit 0

say() { echo "dev: $*"; }
fail() { say "FAIL $*"; }

[ "$disk" != /dev/vda ] || [ "$(cat /sys/class/rtc/rtc0/name 2>/dev/null)" ] || fail "there is no clock"
# Buses are looked through in the background, and their numbers are not always the same.
for n in $(seq 60); do
    set -- $disk
    [ -b "$1" ] && break
    sleep 1
done
disk=$1
if [ -n "$boot" ]; then
    set -- $boot
    boot=$1
    mount -t vfat -o ro "$boot" /mnt || fail "the boot partition cannot be mounted"
    say "boot $(sha256sum </mnt/kernel8.img)"
    umount /mnt
fi
mount -t ext4 "$disk" /mnt || fail "the disk cannot be mounted"
# A root file system has a program that runs from it.
[ ! -x /mnt/bin/busybox ] || chroot /mnt /bin/busybox sh /hello || fail "the root file system cannot be used"
echo life >>/mnt/lives
life=$(wc -l </mnt/lives)
cp /mnt/data /mnt/copy.$life || fail "the file cannot be copied"
sync
umount /mnt
# Nothing of it may come from memory.
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 "$disk" /mnt || fail "the disk cannot be mounted again"
cmp /mnt/data /mnt/copy.$life || fail "the copy differs"

if [ -n "$port" ]; then
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
    ping -c 3 10.0.2.2 >/tmp/ping || fail "no answer to ping: $(tail -n 2 /tmp/ping)"
    wget -q -O /tmp/got "http://10.0.2.2:$port/data" || fail "the server cannot be reached"
    cmp /tmp/got /mnt/data || fail "what came over the network differs"
    nc 10.0.2.2 "$port" </mnt/copy.$life >/dev/null || fail "the copy cannot be sent"
fi
umount /mnt
# Where a USB controller says that it puts data: its own addresses, not the CPU's.
mount -t debugfs none /sys/kernel/debug 2>/dev/null
for dump in /sys/kernel/debug/usb/*.usb/regdump; do
    [ -f "$dump" ] && say "DMA $(awk '/^HCDMA\(/ && $3 != "0x00000000" { print $3 }' "$dump" | xargs)"
done
used=$(awk '/virtio|mmc|dwc2/ { sum += $2 } END { print sum + 0 }' /proc/interrupts)
say "life $life over, $used interrupts of devices"
if [ "$life" -lt "$lives" ]; then
    reboot
else
    say "all lives over"
    [ -n "$port" ] || poweroff
fi
