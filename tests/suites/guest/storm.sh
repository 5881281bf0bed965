# Storms on the memory of processes, swap on a RAM disk, processes that live short, modules and vCPUs that come and
# go. Then powers off. Goes on from begin.sh.
event() { awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat; }

say "Linux $(uname -r), storms for $seconds s"
mkswap /dev/ram0 >/dev/null && swapon /dev/ram0 || fail "no swap on a RAM disk"

# The memory of processes: one more than there are vCPUs.
for n in $(seq $((vcpus + 1))); do
    (walkload $n storm /tmp/stop || echo "status $?") >/tmp/storm$n 2>&1 &
done
# Processes that live short, and pipes between them.
(while [ ! -e /tmp/stop ]; do seq 200 | sort -r | md5sum >/dev/null; done) &
# Code that comes and goes: the kernel maps it, makes it read-only and executable, and unmaps it.
(while [ ! -e /tmp/stop ]; do
    rmmod virtio_net && insmod /lib/modules/virtio_net.ko && echo >>/tmp/modules
done) &
# vCPUs that go and come back.
(while [ ! -e /tmp/stop ]; do
    for cpu in $(seq 1 $((vcpus - 1))); do
        echo 0 >/sys/devices/system/cpu/cpu$cpu/online
        usleep 200000
        echo 1 >/sys/devices/system/cpu/cpu$cpu/online
    done
    sleep 1
done) 2>/tmp/hotplug &

sleep "$seconds"
touch /tmp/stop
wait
for n in $(seq $((vcpus + 1))); do
    grep -q "every word is right" /tmp/storm$n || fail "storm $n: $(cat /tmp/storm$n)"
done
[ -s /tmp/hotplug ] && fail "hotplug: $(head -n 1 /tmp/hotplug)"
# What was to happen has happened.
[ "$(wc -l </tmp/modules)" -ge 3 ] || fail "modules came and went $(wc -l </tmp/modules) times"
events="pswpout pswpin"
# A kernel with PREEMPT_RT has no transparent huge pages.
[ -d /sys/kernel/mm/transparent_hugepage ] && events="$events thp_collapse_alloc thp_split_pmd"
for name in $events; do
    [ "$(event $name)" -gt 0 ] || fail "$name is $(event $name)"
done
say "swapped out $(event pswpout) pages, collapsed $(event thp_collapse_alloc), split $(event thp_split_pmd), modules $(wc -l </tmp/modules)"
finish
