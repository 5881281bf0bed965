#!/bin/busybox sh
# Begins what runs in the guest of the Linux tests; load.sh or storm.sh goes on below.
# The command line says load.seconds=S and load.vcpus=N.
for word in $(cat /proc/cmdline); do
    case $word in
    load.seconds=*) seconds=${word#*=} ;;
    load.vcpus=*) vcpus=${word#*=} ;;
    esac
done
[ -n "$seconds" ] || exit 0
bad=

say() { echo "load: $*"; }
fail() { bad=yes; say "FAIL $*"; }
# Looks for the kernel's complaints, says the verdict, powers off.
finish() {
    dmesg | grep -iE 'stall|soft lockup|hard lockup|BUG:|WARNING:|lost|hung task|call trace|unable to handle|bad mode|unexpected|out of memory' >/tmp/complaints &&
        fail "kernel complains: $(head -n 3 /tmp/complaints)"
    [ -z "$bad" ] && say "verdict good" || say "verdict bad"
    poweroff -f
}
