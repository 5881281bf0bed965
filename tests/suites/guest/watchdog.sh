#!/bin/busybox sh
# Runs in the guest of the watchdog test: feeds the watchdog for three times as long as it waits, then
# lets it starve.
say() { echo "wd: $*"; }

say "found $(cat /sys/class/watchdog/watchdog0/identity 2>/dev/null || echo nothing)"
watchdog -T 2 -t 500ms /dev/watchdog
sleep 6
say "fed for 6 s, $(cat /sys/class/watchdog/watchdog0/timeout) s allowed"
killall -9 watchdog
