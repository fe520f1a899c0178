# The guest's own ice.ko on the model; the host's network stack at the other end of the wire.
NIC=0000:00:05.0
FAR=10.77.12.1
up() { device=$(interface $NIC); ip addr flush dev $device 2>/dev/null; address $NIC 10.77.12.2/24; }
reach() { ping -c 1 -W 2 $FAR >/dev/null; }
said() { dmesg | grep -q "ice $NIC: .*$1"; }
on() { for feature; do ethtool -k $device | grep -q "^$feature: on" || { echo "$feature is off"; return 1; }; done; }
combined() { ethtool -l $device | tail -n 5 | grep -q "Combined:.*$1"; }
counter() { ethtool -S $device | sed -n "s/^ *$1: //p"; }
frames() { echo $(($(counter $1_unicast.nic) + $(counter $1_multicast.nic) + $(counter $1_broadcast.nic))); }
# Hardware's own counters stand still.
settled() {
    before=$(frames rx); sleep 3
    [ "$before" = "$(frames rx)" ]
}
facts() {
    echo "fact rx_pkts_nic $(frames rx)"
    echo "fact tx_pkts_nic $(frames tx)"
    echo "fact tx_bytes_nic $(counter tx_bytes.nic)"
    echo "fact rx_missed_errors $(counter rx_dropped.nic)"
    echo "fact rx_csum_offload_errors $(counter rx_csum_bad.nic)"
    echo "fact rx_crc_errors $(counter rx_crc_errors.nic)"
}
# Both ends are counted twice; the host says whether nothing was on the wire in between.
counts() {
    within 60 settled
    for turn in 1 2 3 4 5; do
        facts; host counts-look
        facts; host "counts-$1" && return
    done
}
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
    check "with a package: the driver binds" up
    within 20 reach
    counts begin
    drive "with a package"
    check "with a package: the driver says so" said "DDP package was successfully loaded"
    check "with a package: offloads are on" on rx-checksumming tx-checksumming scatter-gather tcp-segmentation-offload tx-udp-segmentation
    check "with a package: there is a queue for each processor" combined 2
    check "with a package: received frames are spread by RSS" [ "$(ethtool -x $device | grep -c toeplitz:.on)" = 1 ]
    check "with a package: one queue, and TCP on it" sh -c "ethtool -L $device combined 1 && xtask traffic tcp-up $FAR 1000000"
    check "with a package: two queues again" ethtool -L $device combined 2
    within 40 reach
    check "with a package: promiscuous, and all multicast" sh -c "ifconfig $device promisc allmulti && xtask traffic udp $FAR 100 && ifconfig $device -promisc -allmulti"
    counts end
    check "with a package: an MTU of 9000" change_mtu 9000
    host ping-sizes 8972
    check "with a package: UDP, jumbo sizes" xtask traffic udp $FAR 8972
    check "with a package: 5 MB of TCP in jumbo frames" xtask traffic tcp-up $FAR 5000000
    check "with a package: UDP comes back with offloads off" sh -c "ethtool -K $device rx off tx off tso off gro off && xtask traffic udp $FAR 100"
    check "with a package: the module goes and comes" reload
    check "with a package: TCP after that" xtask traffic tcp-down $FAR 1000000
    check "with a package: the module goes" rmmod ice
fi
