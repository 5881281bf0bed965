#!/bin/busybox sh
# Runs in the guest of the device tests: uses the disk, the network and the clock that it was given, then
# starts itself anew until it has lived often enough, which the disk remembers.
# The command line says dev.lives=N, and dev.port=P for a server on the host.
for word in $(cat /proc/cmdline); do
    case $word in
    dev.lives=*) lives=${word#*=} ;;
    dev.port=*) port=${word#*=} ;;
    esac
done
[ -n "$lives" ] || exit 0

say() { echo "dev: $*"; }
fail() { say "FAIL $*"; }

[ "$(cat /sys/class/rtc/rtc0/name 2>/dev/null)" ] || fail "there is no clock"
mount -t ext4 /dev/vda /mnt || fail "the disk cannot be mounted"
echo life >>/mnt/lives
life=$(wc -l </mnt/lives)
cp /mnt/data /mnt/copy.$life || fail "the file cannot be copied"
sync
umount /mnt
# Nothing of it may come from memory.
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt || fail "the disk cannot be mounted again"
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
used=$(awk '/virtio/ { sum += $2 } END { print sum + 0 }' /proc/interrupts)
say "life $life over, $used interrupts of devices"
if [ "$life" -lt "$lives" ]; then
    reboot
else
    say "all lives over"
    [ -n "$port" ] || poweroff
fi
