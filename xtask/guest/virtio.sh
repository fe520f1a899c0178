# The guest's own virtio_net.ko on a model for each kind of ring.
interface() { ls /sys/bus/pci/devices/$1/virtio*/net 2>/dev/null; }
up() {
    within 20 interface $1 || return 1
    device=$(interface $1)
    ip link set $device up && ip addr add $2 dev $device && within 40 carrier $device
}
reach() { ping -c 1 -W 2 $1 >/dev/null; }
on() { for feature; do ethtool -k $device | grep -q "^$feature: on" || { echo "$feature is off"; return 1; }; done; }
# Features as the driver shows them: a digit each, bit 0 first.
feature() { [ "$(cut -c $(($1 + 1)) /sys/bus/pci/devices/$NIC/virtio*/features)" = $2 ]; }
reload() { rmmod virtio_net && insmod /modules/virtio_net.ko && up $NIC $HERE && within 40 reach $FAR; }
pairs() { ethtool -L $device combined $1 && ethtool -l $device | tail -n 3 | grep -q "Combined:.*$1"; }
one_and_four() { pairs 1 && pairs 4; }

# drive WIRE RING PACKED IN_ORDER LARGEST: the devices' slots begin at 5.
drive() {
    NIC=0000:00:0$(($1 + 4)).0; HERE=10.77.$1.2/24; FAR=10.77.$1.1
    RING=$2; PACKED=$3; IN_ORDER=$4; LARGEST=$5
    check "$RING: the driver binds, link comes up" up $NIC $HERE
    check "$RING: the address is the model's" grep -q "^02:53:57:00:01:01$" /sys/class/net/$device/address
    check "$RING: interrupts are MSI-X" grep -q "MSIX.*virtio.*-input" /proc/interrupts
    check "$RING: packed or not, as offered" feature 34 $PACKED
    check "$RING: in order or not, as offered" feature 35 $IN_ORDER
    check "$RING: the MTU is the model's" [ "$(cat /sys/class/net/$device/mtu)" = $((LARGEST + 28)) ]
    check "$RING: the far end answers" within 20 reach $FAR
    check "$RING: offloads are on" on tx-checksumming scatter-gather tcp-segmentation-offload tx-udp-segmentation
    host $RING ping-sizes $LARGEST
    check "$RING: UDP, every size to the MTU, comes back as sent" xtask traffic udp $FAR $LARGEST
    check "$RING: 50 MB of TCP to the far end" xtask traffic tcp-up $FAR 50000000
    check "$RING: 50 MB of TCP from the far end" xtask traffic tcp-down $FAR 50000000
    check "$RING: one pair of queues, and four" one_and_four
    check "$RING: TCP on four pairs" xtask traffic tcp-up $FAR 5000000
    check "$RING: UDP comes back with offloads off" sh -c "ethtool -K $device tx off tso off gro off && xtask traffic udp $FAR 100"
    check "$RING: TCP with offloads off" xtask traffic tcp-up $FAR 1000000
    check "$RING: the module goes and comes" reload
    check "$RING: TCP after that" xtask traffic tcp-down $FAR 1000000
}

modules $VIRTIO_MODULES
drive 1 split 0 0 1472
drive 2 packed 1 0 8972
drive 3 split-in-order 0 1 8972
drive 4 packed-in-order 1 1 1472
check "the module goes" rmmod virtio_net
