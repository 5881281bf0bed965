# Checks the guest, loads it, looks for complaints, powers off. Goes on from begin.sh.
online() { grep -c ^processor /proc/cpuinfo; }

say "Linux $(uname -r), $(online) on line, load for $seconds s"
[ "$(online)" = "$vcpus" ] || fail "$(online) of $vcpus vCPUs on line"

# CPUs: a hog for each and one more, so that the scheduler has to share.
for n in $(seq $((vcpus + 1))); do
    while :; do echo $n | md5sum >/dev/null; done &
done
# Memory: write, read back, compare; the page cache and anonymous memory.
(while :; do
    dd if=/dev/urandom of=/tmp/a bs=64k count=128 2>/dev/null
    cp /tmp/a /tmp/b
    cmp -s /tmp/a /tmp/b || echo "load: FAIL memory differs"
    sort -R /etc/rc >/dev/null
done) &
# Timers: many short sleeps.
for n in 1 2 3 4; do (while :; do usleep 1000; done) & done
# IPIs: pipes between tasks on different CPUs, and tasks moved by force.
(while :; do seq 200 | cat | wc -l >/dev/null; done) &
sh -c 'while :; do
    for cpu in $(seq 0 $(($1 - 1))); do taskset -p $((1 << cpu)) $$ >/dev/null 2>&1; done
done' mover "$vcpus" &

start=$(cut -d. -f1 /proc/uptime)
sleep "$seconds"
took=$(($(cut -d. -f1 /proc/uptime) - start))
[ "$took" -le $((seconds + seconds / 5 + 5)) ] || fail "sleep $seconds took $took s"
kill $(jobs -p) 2>/dev/null
killall md5sum dd seq cat 2>/dev/null

# vCPUs off and on again: PSCI CPU_OFF and CPU_ON.
for cpu in $(seq 1 $((vcpus - 1))); do
    echo 0 >/sys/devices/system/cpu/cpu$cpu/online || fail "cpu$cpu does not go off"
    echo 1 >/sys/devices/system/cpu/cpu$cpu/online || fail "cpu$cpu does not come back"
done
[ "$(online)" = "$vcpus" ] || fail "$(online) of $vcpus vCPUs after hotplug"

# Every vCPU has had timer interrupts.
awk -v n="$vcpus" '/arch_timer/ { for (i = 2; i < n + 2; i++) if ($i + 0 < 10) bad = 1; seen = 1 }
    END { exit bad || !seen }' /proc/interrupts || fail "a vCPU had no timer interrupts"
finish
