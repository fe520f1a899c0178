# Our driver on QEMU's own virtio-net, on vfio-pci behind the guest's IOMMU. The devices, and what each is joined to:
SPLIT=0000:00:05.0          # a hub
PACKED=0000:00:06.0         # the same hub
SPLIT_IN_ORDER=0000:00:07.0 # another hub
PACKED_IN_ORDER=0000:00:08.0
BARE=0000:00:09.0           # a hub, without iommu_platform
SUMS=0000:00:0a.0           # the host's wire9; computes checksums
JUDGE=0000:00:0b.0          # the host's wire10; takes no partial checksums
NO_SUMS=0000:00:0c.0        # the host's wire11; computes none
USER=0000:00:0d.0           # QEMU's user network
interface() { ls /sys/bus/pci/devices/$1/virtio*/net 2>/dev/null; }
received() { wait $receiver || { cat /tmp/received; return 1; }; }
same() { [ "$(sha256sum <$1)" = "$(sha256sum <$FILE)" ] || { echo "the SHA-256 sums differ"; return 1; }; }
# listen WHERE...: starts a receiver in this guest.
listen() {
    rm -f /tmp/got
    receive "$@" --out /tmp/got --idle-seconds 60 --json >/tmp/received 2>&1 &
    receiver=$!
    within 30 grep -q listening /tmp/received || { cat /tmp/received; return 1; }
}
HUB="--from 10.78.0.1:4000 --to 10.78.0.2:9000"
# between SENDER RECEIVER FLAGS...: two of our drivers.
between() {
    near=$1; far=$2; shift 2
    listen --device $far --listen 10.78.0.2:9000 || return 1
    sends $FILE --device $near $HUB "$@" || { kill $receiver; cat /tmp/received; return 1; }
    received && cat /tmp/received
}
damaged() { echo $(($(field torn) + $(field_of /tmp/received wrong_checksums))); }
a_file() { between "$@" && [ "$(damaged)" = 0 ] && same /tmp/got; }
scribbled() {
    between "$@" --scribble && [ "$(damaged)" = 0 ] || return 1
    [ "$(field writer_pauses)" -gt 0 ] || { echo "no writer had to wait: nothing was shown"; return 1; }
}
torn_without_holds() { between "$@" --scribble --unheld; [ "$(damaged)" -gt 0 ]; }
# ring NIC KIND: QEMU is asked while the device is driven.
ring() {
    listen --device $1 --listen 10.78.0.2:9000 >/dev/ttyS0
    host ring $(echo $1 | cut -c 9-10) $2
    kill $receiver
    wait $receiver
}
refuses() { send $FILE --device $BARE >/tmp/refusal 2>&1; cat /tmp/refusal; grep -q "iommu_platform=on" /tmp/refusal; }
offers() { info --device $1 --json | tee /dev/ttyS0 | grep -q "\"tx_checksum\":$2"; }
# to_host NIC NUMBER FLAGS...: to the kernel's socket on the host's end of the wire.
to_host() {
    nic=$1; wire=$2; shift 2
    verified $FILE --device $nic --from 10.77.$wire.2:4000 --to 10.77.$wire.1:9000 "$@"
}
# routed NIC NUMBER FLAGS...: by way of the host to wire10.
routed() {
    nic=$1; wire=$2; shift 2
    sends $FILE --device $nic --from 10.77.$wire.2:4000 --to 10.77.10.2:9000 --to-mac 02:53:57:00:00:$(printf %02d $wire) "$@" ||
        { kill $receiver; cat /tmp/received; return 1; }
    received && cat /tmp/received
}
wrong_sums() { awk '/^Udp:/ { if (at) print $at; else for (i = 1; i <= NF; i++) if ($i == "InCsumErrors") at = i }' /proc/net/snmp; }
to_kernel() { listen --listen 10.77.10.2:9000 && routed "$@" && [ "$(field torn)" = 0 ] && same /tmp/got && [ "$(wrong_sums)" = 0 ]; }
kernel_counts() { listen --listen 10.77.10.2:9000 && routed $NO_SUMS 11 --scribble --unheld; [ "$(wrong_sums)" -gt 0 ]; }
to_ours() { listen --device $JUDGE --listen 10.77.10.2:9000 && routed "$@" && [ "$(damaged)" = 0 ] && same /tmp/got; }
# cut_by_device HOW NIC NUMBER: the same in runs that the device cuts.
cut_by_device() { "$@" --segment && [ "$(field runs)" -gt 0 ]; }
cuts_nothing() { send $FILE --device $1 --segment >/tmp/refusal 2>&1; cat /tmp/refusal; grep -q "does not cut UDP" /tmp/refusal; }
gateway() {
    within 20 interface $JUDGE || return 1
    device=$(interface $JUDGE)
    ip link set $device up && ip addr add 10.77.10.2/24 dev $device && within 40 carrier $device || return 1
    ip route add default via 10.77.10.1
}

# Two programs that look without a pause, a device each, on emulated processors: a part will do.
head -c 6000001 $FILE >/tmp/part && mv /tmp/part $FILE
echo "fact file_sha256 $(sha256sum <$FILE | cut -d' ' -f1)"
modules $VIRTIO_MODULES $VFIO_MODULES
check "every device is in an IOMMU group" within 20 in_a_group $BARE
check "bind takes the devices from virtio-pci" xtask bind $SPLIT $PACKED $SPLIT_IN_ORDER $PACKED_IN_ORDER $BARE
check "vfio-pci has them" driven_by $PACKED_IN_ORDER vfio-pci
check "a device that may go around the IOMMU is refused" refuses
check "a hub's device computes no checksums" offers $SPLIT false
check "nor does it cut" cuts_nothing $SPLIT
ring $SPLIT split
ring $PACKED packed
ring $SPLIT_IN_ORDER split
ring $PACKED_IN_ORDER packed
check "a file from a split ring to a packed one" a_file $SPLIT $PACKED
check "a file from a packed ring to a split one" a_file $PACKED $SPLIT
check "the same in order, from split" a_file $SPLIT_IN_ORDER $PACKED_IN_ORDER
check "the same in order, from packed" a_file $PACKED_IN_ORDER $SPLIT_IN_ORDER
for near in $SPLIT $PACKED; do
    far=$PACKED; ring=split
    [ $near = $PACKED ] && far=$SPLIT && ring=packed
    check "$ring: writers about: no frame is torn, writers wait" scribbled $near $far
    check "$ring: the same without holds: frames are torn" torn_without_holds $near $far
done
check "unbind gives a device back to virtio-pci" xtask unbind $SPLIT
check "virtio-pci has it" driven_by $SPLIT virtio-pci

if host networks; then
    check "a wire to the host's kernel: with checksums, and without" xtask bind $SUMS $NO_SUMS $USER
    check "QEMU computes checksums for a TAP interface" offers $SUMS true
    check "unless it is told not to" offers $NO_SUMS false
    host receive 10.77.9.1
    check "QEMU's checksums: a file to the host's socket" to_host $SUMS 9
    host received
    host receive 10.77.9.1
    check "runs that QEMU has cut: a file to the host's socket" cut_by_device to_host $SUMS 9
    host received
    host receive 10.77.11.1
    check "the sender's checksums: a file to the host's socket" to_host $NO_SUMS 11
    host received
    host sums-right
    host receive 10.77.11.1
    check "writers about: no frame is torn" to_host $NO_SUMS 11 --scribble
    host scribbled
    host sums-right
    host receive 10.77.11.1
    check "without holds" sends $FILE --device $NO_SUMS --from 10.77.11.2:4000 --to 10.77.11.1:9000 --scribble --unheld
    host scribbled
    host sums-wrong
    check "the guest's own virtio_net takes a wire" gateway
    check "QEMU's checksums: a file to this kernel's socket, which looks at them" to_kernel $SUMS 9
    check "runs, cut on the way: to this kernel's socket" cut_by_device to_kernel $SUMS 9
    check "the sender's checksums: a file to this kernel's socket" to_kernel $NO_SUMS 11
    check "this kernel does look: without holds it counts wrong ones" kernel_counts
    check "bind takes the device from virtio_net" xtask bind $JUDGE
    check "QEMU's checksums: a file to our driver, which looks at them" to_ours $SUMS 9
    check "runs, cut on the way: to our driver" cut_by_device to_ours $SUMS 9
    host receive 127.0.0.1
    check "by QEMU's user network to the host" verified $FILE --device $USER --from 10.0.2.15:4000 --to 10.0.2.2:9000
    host received
fi
