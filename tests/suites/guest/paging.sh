#!/bin/busybox sh
# Runs in the guest of `just bench paging`: idle until the policy has settled, then each workload between markers, then
# a line from the console. Nothing in it depends on the mode.
grep -q bench.paging /proc/cmdline || exit 0
echo "bench: up"
sleep 12
/bin/walkload 1 exec 300
/bin/walkload 2 on
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do seq 200 | sort -r | cat | wc -l >/dev/null; done
/bin/walkload 2 off
/bin/walkload 3 churn 1500
/bin/walkload 4 pipes 1500
/bin/walkload 5 gups 8388608 60000 small
echo "bench: done"
read -r line </dev/console
poweroff -f
