#!/bin/busybox sh
# Process 1 of the guest. The kernel's messages go to the first serial port, results to the second: a line each,
# `ok NAME<tab>RATE`, `FAILED NAME<tab>WHY`, `fact KEY VALUE`, `host ACTION` (then a line is read back), `done`.
export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
if grep -qw stillwire.shell /proc/cmdline; then
    exec >/dev/ttyS0 2>&1 </dev/ttyS0
else
    exec >/dev/ttyS1 2>/dev/ttyS0 </dev/ttyS1
    stty -echo raw
fi
ip link set lo up

# Says what came of a command; what it printed is told when it failed.
check() {
    name=$1; shift
    if "$@" >/tmp/output 2>&1; then printf 'ok %s\t%s\n' "$name" "$(grep -a ' MB/s$' /tmp/output)"; else
        printf 'FAILED %s\t%s\n' "$name" "$(tr '\n\t' '; ' </tmp/output | tail -c 600)"
    fi
    echo "--- $name" >/dev/ttyS0
    cat /tmp/output >/dev/ttyS0
}

# Waits until a command succeeds; $1 seconds.
within() {
    end=$(($(cut -d. -f1 /proc/uptime) + $1)); shift
    until "$@" >/dev/null 2>&1; do
        if [ "$(cut -d. -f1 /proc/uptime)" -ge $end ]; then echo "not within its time: $*"; return 1; fi
        usleep 200000
    done
}

# Lets the host do something, and waits for it.
host() {
    echo "host $*"
    read -r answer
    [ "$answer" = go ]
}

# Those that are loaded already may be named again: several drivers need them.
modules() { for module; do [ -d /sys/module/$module ] || insmod /modules/$module.ko || return 1; done; }
carrier() { [ "$(cat /sys/class/net/$1/carrier 2>/dev/null)" = 1 ]; }
# The interface of a PCI function.
interface() { ls /sys/bus/pci/devices/$1/net 2>/dev/null; }
# Gives the interface of a PCI function an address, and waits for its link.
address() {
    within 20 [ -d /sys/bus/pci/devices/$1/net ] || return 1
    device=$(interface $1)
    ip link set $device up && ip addr add $2 dev $device && within 40 carrier $device
}

. /scenario.sh
# Warnings and worse; the host knows which are expected.
dmesg -r | sed -n 's/^<[0-4]>\[ *[0-9.]*\] */fact warning /p'
echo done
sync
poweroff -f
