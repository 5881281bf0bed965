#!/bin/busybox sh
# Runs in the guest of `just bench paging`: the group of workloads that the command line names, each workload between
# markers, then a line from the console. Nothing in it depends on the mode. The round, a digit, decides what else would differ from
# one boot to the next: the random numbers, and where in a tick a workload begins.
for word in $(cat /proc/cmdline); do
    case $word in
    bench.paging=*) group=${word#*=} ;;
    bench.round=*) round=${word#*=} ;;
    esac
done
[ -n "$group" ] || exit 0
echo "bench: up"
w=/bin/walkload
$w $round seed
# Between two workloads the guest is idle until the policy may try again whatever it gave up.
rest() {
    echo "bench: next"
    sleep 400.00$round
}
# A command, over and over, so that what a process draws for itself, where it has its memory, evens out within a window.
repeat() {
    left=$1
    shift
    while [ $left -gt 0 ]; do
        "$@"
        left=$((left - 1))
    done
}
pipelines() {
    /bin/busybox sh -c 'for i in 0 1 2 3 4 5 6 7 8 9; do seq 200 | sort -r | cat | wc -l >/dev/null; done'
}
redis() {
    get="redis-benchmark -q -d 100 -r 20000"
    redis-server --save "" --appendonly no --daemonize yes >/dev/null
    until $get -P 64 -t set -n 20000 >/dev/null; do :; done
    $w 7 on
    $get -t get -n 4000 >/dev/null
    $w 7 off
    killall redis-server
    while pidof redis-server >/dev/null; do sleep 0.1; done
}
case $group in
churn)
    rest; repeat 30 $w 1 exec 100
    rest; $w 2 on; repeat 20 pipelines; $w 2 off
    rest; $w 3 churn 10000
    rest; repeat 10 $w 4 pipes 5000
    ;;
trials)
    rest; $w 5 jobs 10 4194304 9000000
    rest; $w 6 turns 14000 4194304 3000
    ifconfig lo up
    rest; repeat 5 redis
    ;;
gain)
    rest; $w 8 gups 67108864 10000000 small
    truncate -s 67108864 /tmp/data
    rest; $w 9 gups 67108864 10000000 file /tmp/data
    rm /tmp/data
    ;;
esac
echo "bench: done"
read -r line </dev/console
poweroff -f
