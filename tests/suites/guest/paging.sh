#!/bin/busybox sh
# Runs in the guest of `just bench paging`: the groups of workloads that the command line names, each workload between
# markers, then a line from the console. Nothing in it depends on the mode.
for word in $(cat /proc/cmdline); do
    case $word in
    bench.paging=*) groups=${word#*=} ;;
    esac
done
[ -n "$groups" ] || exit 0
echo "bench: up"
w=/bin/walkload
$w 0 seed
# Between two workloads the guest is idle until the policy may try again whatever it gave up.
rest() {
    echo "bench: next"
    sleep 400
}
case ,$groups, in *,churn,*)
    rest; $w 1 exec 3000
    rest; $w 2 on
    i=0
    while [ $i -lt 200 ]; do
        seq 200 | sort -r | cat | wc -l >/dev/null
        i=$((i + 1))
    done
    $w 2 off
    rest; $w 3 churn 10000
    rest; $w 4 pipes 50000
    ;;
esac
case ,$groups, in *,trials,*)
    rest; $w 5 jobs 10 4194304 9000000
    rest; $w 6 turns 14000 4194304 3000
    ifconfig lo up
    redis-server --save "" --appendonly no --daemonize yes >/dev/null
    redis="redis-benchmark -q -d 100 -r 20000"
    until $redis -P 64 -t set -n 20000 >/dev/null; do :; done
    rest; $w 7 on; $redis -t get -n 20000 >/dev/null; $w 7 off
    killall redis-server
    ;;
esac
case ,$groups, in *,gain,*)
    rest; $w 8 gups 67108864 10000000 small
    truncate -s 67108864 /tmp/data
    rest; $w 9 gups 67108864 10000000 file /tmp/data
    rm /tmp/data
    ;;
esac
echo "bench: done"
read -r line </dev/console
poweroff -f
