#!/bin/busybox sh
# Runs in the guest of `just bench wakeups`: a real-time task that wakes up so often. The command line has
# bench.wakeups=COUNT.
set -- $(sed -n 's/.*bench\.wakeups=\([0-9]*\).*/\1/p' /proc/cmdline)
[ -n "$1" ] || exit 0
echo "bench: begins"
/bin/walkload 1 wake "$1" 1000
echo "bench: done"
poweroff -f
