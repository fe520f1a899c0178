# The guest's own ice.ko on the model; the host's network stack at the other end of the wire.
NIC=0000:00:05.0
FAR=10.77.5.1
up() { address $NIC 10.77.5.2/24; }
reach() { ping -c 1 -W 2 $FAR >/dev/null; }
said() { dmesg | grep -q "ice $NIC: .*$1"; }
on() { for feature; do ethtool -k $device | grep -q "^$feature: on" || { echo "$feature is off"; return 1; }; done; }
change_mtu() { ip link set $device mtu $1 && within 40 reach; }
down_and_up() { ip link set $device down && ip link set $device up && within 40 reach; }
reload() { rmmod ice && insmod /modules/ice.ko && up && within 40 reach; }

# drive MODE
drive() {
    check "$1: the driver binds, link comes up" up
    check "$1: the address is the NVM's" grep -q "^02:53:57:00:02:01$" /sys/class/net/$device/address
    check "$1: the link is as fast as the model says" grep -q "^100000$" /sys/class/net/$device/speed
    check "$1: interrupts are MSI-X" grep -q "MSIX.*ice-$device" /proc/interrupts
    check "$1: the far end answers" within 20 reach
    host ping-sizes 1472
    check "$1: UDP, every size to the MTU, comes back as sent" xtask traffic udp $FAR 1472
    check "$1: 50 MB of TCP to the far end" xtask traffic tcp-up $FAR 50000000
    check "$1: 50 MB of TCP from the far end" xtask traffic tcp-down $FAR 50000000
    check "$1: down and up" down_and_up
    check "$1: TCP after that" xtask traffic tcp-up $FAR 1000000
}

modules $ICE_MODULES
drive "safe mode"
check "safe mode: the driver says so" said "Safe Mode"
check "safe mode: the module goes" rmmod ice
if [ -e /ice.pkg ]; then
    mkdir -p /lib/firmware/intel/ice/ddp
    cp /ice.pkg /lib/firmware/intel/ice/ddp/ice.pkg
    insmod /modules/ice.ko
    drive "with a package"
    check "with a package: the driver says so" said "DDP package was successfully loaded"
    check "with a package: offloads are on" on rx-checksumming tx-checksumming scatter-gather tcp-segmentation-offload tx-udp-segmentation
    check "with a package: an MTU of 9000" change_mtu 9000
    host ping-sizes 8972
    check "with a package: UDP, jumbo sizes" xtask traffic udp $FAR 8972
    check "with a package: 5 MB of TCP in jumbo frames" xtask traffic tcp-up $FAR 5000000
    check "with a package: UDP comes back with offloads off" sh -c "ethtool -K $device rx off tx off tso off gro off && xtask traffic udp $FAR 100"
    check "with a package: the module goes and comes" reload
    check "with a package: TCP after that" xtask traffic tcp-down $FAR 1000000
    check "with a package: the module goes" rmmod ice
fi
