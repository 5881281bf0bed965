#!/bin/busybox sh
# Runs in the guest that has pins, a UART and an I2C bus of the Raspberry Pi 4.
say() { echo "pi: $*"; }
fail() { say "FAIL $*"; }

for label in /sys/class/gpio/gpiochip*/label; do
    grep -q bcm2711 "$label" && chip=$(dirname "$label")
done
# A pin that nobody uses: what is written to it is read back.
pin=$(($(cat "$chip/base") + 21))
echo $pin >/sys/class/gpio/export || fail "pin 21 is not to be had"
for level in 1 0 1; do
    [ $level = 1 ] && way=high || way=low
    echo $way >/sys/class/gpio/gpio$pin/direction || fail "pin 21 cannot be set"
    [ "$(cat /sys/class/gpio/gpio$pin/value)" = $level ] || fail "pin 21 is not $level"
done
say "pin 21 goes up and down"

for tty in /sys/class/tty/ttyAMA*; do
    grep -qi fe201000 "$tty/iomem_base" && uart=/dev/$(basename "$tty")
done
# Open from first to last: what comes while it is closed is lost.
exec 3<>"$uart" || fail "there is no second UART"
stty -F "$uart" 115200 raw -echo
echo "hello from the guest" >&3
read -r line <&3 || fail "nothing can be read from the second UART"
say "the second UART says $line"

# The firmware's rates, which its model says to be 3 MHz (UART) and 350 MHz (core); documents say 48 and 250.
for clock in clock-3000000 clock-350000000; do
    [ -d /proc/device-tree/$clock ] || fail "there is no $clock"
done
say "the clocks run as the firmware says"

# QEMU's raspi4b leads no interrupt of its I2C buses to the GIC: there is a driver, and no transfer.
cat /sys/class/i2c-dev/i2c-*/name | grep -q fe804000 || fail "there is no I2C bus"
say "over"
poweroff
