# The guest's own ixgbe.ko on the model; the host's network stack at the other end of the wire.
NIC=0000:00:05.0
FAR=10.77.0.1
COUNTED="rx_pkts_nic tx_pkts_nic tx_bytes_nic rx_missed_errors rx_csum_offload_errors rx_crc_errors"
up() { address $NIC 10.77.0.2/24; }
reach() { ping -c 1 -W 2 $FAR >/dev/null; }
counter() { ethtool -S $device | sed -n "s/^ *$1: //p"; }
on() { for feature; do ethtool -k $device | grep -q "^$feature: on" || { echo "$feature is off"; return 1; }; done; }
change_mtu() { ip link set $device mtu $1 && within 40 reach; }
down_and_up() { ip link set $device down && ip link set $device up && within 40 reach; }
reload() { rmmod ixgbe && insmod /modules/ixgbe.ko && up && within 40 reach; }
# Hardware's own counters stand still.
settled() {
    before=$(counter rx_pkts_nic); sleep 3
    [ "$before" = "$(counter rx_pkts_nic)" ]
}
facts() { for key in $COUNTED; do echo "fact $key $(counter $key)"; done; }
# Both ends are counted twice; the host says whether nothing was on the wire in between.
counts() {
    within 60 settled
    for turn in 1 2 3 4 5; do
        facts; host counts-look
        facts; host "counts-$1" && return
    done
}

modules $STOCK_MODULES
check "the driver binds, link comes up" up
check "the address is the EEPROM's" grep -q "^02:53:57:00:00:01$" /sys/class/net/$device/address
check "interrupts are MSI-X" grep -q "MSIX.*$device-TxRx" /proc/interrupts
check "the far end answers" within 20 reach
# Every multicast frame is to be counted, whoever it is for.
check "all multicast is let in" ifconfig $device allmulti
counts begin
check "offloads can be switched on" ethtool -K $device rx on tx on sg on tso on gro on
check "offloads are on" on rx-checksumming tx-checksumming scatter-gather tcp-segmentation-offload generic-receive-offload
host ping-sizes 1472
check "UDP, every size to the MTU, comes back as sent" xtask traffic udp $FAR 1472
check "50 MB of TCP to the far end" xtask traffic tcp-up $FAR 50000000
check "50 MB of TCP from the far end" xtask traffic tcp-down $FAR 50000000
check "UDP comes back with offloads off" sh -c "ethtool -K $device rx off tx off tso off gro off && xtask traffic udp $FAR 100"
check "offloads come back on" ethtool -K $device rx on tx on sg on tso on gro on
counts end
check "only some multicast is let in" ifconfig $device -allmulti
check "multicast, both ways" xtask traffic multicast $FAR 10.77.0.2
before=$(counter multicast)
host multicast-to-nobody
check "multicast for nobody is filtered" [ "$before" = "$(counter multicast)" ]
check "down and up" down_and_up
check "an MTU of 9000" change_mtu 9000
host ping-sizes 8972
check "UDP, jumbo sizes" xtask traffic udp $FAR 8972
check "5 MB of TCP in jumbo frames" xtask traffic tcp-up $FAR 5000000
check "back to an MTU of 1500" change_mtu 1500
check "the module goes and comes" reload
check "TCP after that" xtask traffic tcp-up $FAR 1000000
check "the register dump is whole" sh -c "ethtool -d $device | grep -q 'Link Status: *up'"
check "the module goes" rmmod ixgbe
# This guest has no IOMMU.
modules $VFIO_MODULES
refuses() {
    send /bin/busybox --device $NIC 2>&1 | tee /tmp/refusal
    grep -q "is in no IOMMU group; switch the IOMMU on" /tmp/refusal
}
check "without an IOMMU, send refuses and says why" refuses
bind_refuses() { ! xtask bind $NIC >/tmp/refusal 2>&1; cat /tmp/refusal; grep -q "no IOMMU group" /tmp/refusal; }
check "without an IOMMU, bind refuses and says why" bind_refuses
