# The guest's own ixgbe.ko on the parts of the family, each for what it alone has.
COUNTED="rx_pkts_nic tx_pkts_nic tx_bytes_nic rx_missed_errors rx_csum_offload_errors rx_crc_errors"
reach() { ping -c 1 -W 2 $FAR >/dev/null; }
counter() { ethtool -S $device | sed -n "s/^ *$1: //p"; }
# The sum of a counter over all queues.
of_queues() { ethtool -S $device | sed -n "s/^ *$1_queue_[0-9]*_packets: //p" | { sum=0; while read -r n; do sum=$((sum + n)); done; echo $sum; }; }
on() { for feature; do ethtool -k $device | grep -q "^$feature: on" || { echo "$feature is off"; return 1; }; done; }
fast() { ethtool $device | grep -q "Speed: 10000Mb/s"; }
entries() { [ "$(ethtool -x $device | grep -c '^ *[0-9]*: ')" = $(($1 / 8)) ]; }
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
        facts; host $PART counts-look
        facts; host $PART "counts-$1" && return
    done
}
# part NAME SLOT NUMBER: brings it up.
part() {
    PART=$1; NIC=0000:00:0$2.0; FAR=10.77.$3.1; device=none
    check "$PART: the driver binds, link comes up" address $NIC 10.77.$3.2/24
    check "$PART: the link has 10 Gb/s" fast
    check "$PART: the far end answers" within 20 reach
    check "$PART: offloads are on" on rx-checksumming tx-checksumming scatter-gather tcp-segmentation-offload
}
both_ways() {
    check "$PART: $1 bytes of TCP to the far end$2" xtask traffic tcp-up $FAR $1
    check "$PART: $1 bytes of TCP from the far end$2" xtask traffic tcp-down $FAR $1
}
four_queues() { ethtool -l $device | tail -n 5 | grep -q "Combined:.*4"; }
# Connections from all processors, each on a port of its own.
many_flows() {
    for turn in 1 2 3 4 5 6 7 8; do
        for processor in 1 2 4 8; do taskset $processor xtask traffic tcp-up $FAR 20000 || return 1; done
    done
}
every_queue() {
    rx=$(of_queues rx); tx=$(of_queues tx); nic_rx=$(counter rx_pkts_nic); nic_tx=$(counter tx_pkts_nic)
    many_flows || return 1
    within 60 settled
    for queue in 0 1 2 3; do
        for way in rx tx; do
            n=$(counter ${way}_queue_${queue}_packets)
            echo "$way queue $queue: $n"
            [ "$n" -gt 20 ] || return 1
        done
    done
    rx=$(($(of_queues rx) - rx)); tx=$(($(of_queues tx) - tx))
    nic_rx=$(($(counter rx_pkts_nic) - nic_rx)); nic_tx=$(($(counter tx_pkts_nic) - nic_tx))
    echo "queues $rx and $tx, NIC $nic_rx and $nic_tx"
    [ $rx = $nic_rx ] && [ $tx = $nic_tx ]
}
no_carrier() { ! carrier $device; }
flaps() {
    within 20 no_carrier && within 40 carrier $device && within 20 reach && xtask traffic tcp-up $FAR 1000000
}
hung() { dmesg | grep -q "$device: tx hang .* detected on queue 0, resetting adapter"; }
hangs() {
    # From each processor: one of them has that queue.
    for processor in 1 2 4 8; do
        within 90 taskset $processor xtask traffic tcp-up $FAR 100000 || return 1
    done
    hung || { dmesg | tail -n 12; return 1; }
    within 40 reach && xtask traffic tcp-down $FAR 1000000
}
jumbo() { ip link set $device mtu 9000 && within 40 carrier $device && within 20 reach; }
tagged() {
    ip link set $device mtu 1500
    ip link add link $device name v5 type vlan id 5 && ip addr add 10.77.8.2/24 dev v5 && ip link set v5 up
}
in_band() { ethtool -K $device rxvlan off txvlan off && within 20 reach; }

# Nobody asks for routers: those frames would be on some wires only.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
modules $STOCK_MODULES $VLAN_MODULES

part x540 5 5
check "x540: the redirection table has 128 entries" entries 128
check "x540: four queues" four_queues
counts begin
check "x540: every queue moves, and all together are what the NIC counts" every_queue
both_ways 20000000 ""
counts end
check "x540: an MTU of 9000" jumbo
counts begin
host x540 ping-sizes 8972
check "x540: UDP, jumbo sizes" xtask traffic udp $FAR 8972
both_ways 10000000 " in jumbo frames"
counts end

part x550 6 6
check "x550: the redirection table has 512 entries" entries 512
check "x550: four queues" four_queues
counts begin
check "x550: every queue moves, and all together are what the NIC counts" every_queue
both_ways 20000000 ""
counts end

part sfp 7 7
check "sfp: the module is known" sh -c "ethtool -m $device | grep -q MODEL-SR"
counts begin
check "sfp: UDP, every size to the MTU, comes back as sent" xtask traffic udp $FAR 1472
both_ways 20000000 ""
counts end

host sfp fault link-flap=0:8000
check "sfp: the link flaps, and traffic goes on" flaps
# What the kernel said so far is judged by the host; of the hang it warns, and it should.
dmesg -r | sed -n 's/^<[0-4]>\[ *[0-9.]*\] */fact warning /p'
host sfp fault hang-tx=0:0
check "sfp: a queue hangs, the driver notices and resets, traffic goes on" hangs
dmesg -c >/dev/null

PART=vlan; NIC=0000:00:08.0; FAR=10.77.8.1
check "vlan: the driver binds, link comes up" address $NIC 10.78.8.2/24
check "vlan: an interface for VLAN 5" tagged
check "vlan: the far end answers" within 20 reach
check "vlan: tags are the NIC's to insert and strip" on rx-vlan-offload tx-vlan-offload tcp-segmentation-offload
counts begin
host vlan ping-sizes 1472
check "vlan: UDP, every size to the MTU, comes back as sent" xtask traffic udp $FAR 1472
both_ways 20000000 ""
counts end
check "vlan: tags are the kernel's" in_band
counts begin
check "vlan: UDP with tags in band" xtask traffic udp $FAR 1472
both_ways 5000000 " with tags in band"
counts end
check "the module goes" rmmod ixgbe
