#!/bin/busybox sh
# Runs in the guest that has pins, a UART, an I2C bus and an SPI bus of the Raspberry Pi 4.
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

# QEMU's raspi4b leads no interrupt of its I2C and SPI buses to the GIC, which Debian's drivers wait for. So there
# is a driver, and the transfers are made by hand, without interrupts (BCM2711 ARM Peripherals, "BSC" and "SPI").
cat /sys/class/i2c-dev/i2c-*/name | grep -q fe804000 || fail "there is no I2C bus"
echo fe804000.i2c >/sys/bus/platform/drivers/i2c-bcm2835/unbind || fail "the I2C driver does not let go"

register() { printf '%d' "$(devmem $(($1)) 32)"; }
put() { devmem $(($1)) 32 "$2"; }

# The thermometer at 0x48: its third register, T_HIGH, is 80 degrees after reset.
i2c=0xfe804000
put $i2c+0xc 0x48                      # A
put $i2c+0x8 1; put $i2c 0x8080        # DLEN; C: I2CEN, ST
put $i2c+0x10 3                        # FIFO: the number of the register
put $i2c+0x4 0x302                     # S: clear DONE and errors
put $i2c+0x8 2; put $i2c 0x8081        # and READ
high=$(register $i2c+0x10) low=$(register $i2c+0x10)
[ $(($(register $i2c+0x4) & 0x302)) = 2 ] || fail "the I2C transfer is not done"
say "I2C reads $high $low"

# The flash chip: command 0x9f, its identity.
spi=0xfe204000
put $spi 0x30; put $spi 0x80           # CS: clear both FIFOs; TA
for byte in 0x9f 0 0 0; do put $spi+0x4 $byte; done
[ $(($(register $spi) >> 16 & 1)) = 1 ] || fail "the SPI transfer is not done"
set --
for byte in 0 1 2 3; do set -- "$@" "$(register $spi+0x4)"; done
put $spi 0
say "SPI reads $2 $3 $4"
say "over"
poweroff
