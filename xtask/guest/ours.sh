# Our driver on vfio-pci behind the guest's IOMMU.
NEAR=0000:00:05.0 # A cable joins these two.
FAR=0000:00:06.0
LOOP=0000:00:07.0 # What it sends comes back.
SLOW=0000:00:08.0 # The same, long after the descriptors were posted.
E810=0000:00:0b.0 # Of another family; what it sends comes back.
scribbled() {
    verified "$@" --scribble --seconds 8 || return 1
    [ "$(field writer_pauses)" -gt 0 ] || { echo "no writer had to wait: nothing was shown"; return 1; }
}
torn_without_holds() { sends "$@" --scribble --unheld --seconds 8; [ "$(field torn)" -gt 0 ]; }
# transfer SENDER RECEIVER: by our driver on one end of the cable to the kernel's socket on the other.
transfer() {
    xtask bind $1 && driven_by $1 vfio-pci || return 1
    address $2 10.78.0.2/24 || return 1
    device=$(interface $2)
    rm -f /tmp/got
    receive --listen 10.78.0.2:9000 --out /tmp/got --idle-seconds 30 >/tmp/received 2>&1 &
    verified $FILE --device $1 --from 10.78.0.1:4000 --to 10.78.0.2:9000 || { cat /tmp/received; return 1; }
    within 10 cmp $FILE /tmp/got || { cat /tmp/received; return 1; }
    ip addr del 10.78.0.2/24 dev $device
    xtask unbind $1 && driven_by $1 ixgbe
}
# as_alice COMMAND...: what that sends is sent by an ordinary user, who may lock so many KiB.
as_alice() {
    (
        ulimit -l $may_lock || exit 1
        send() { su alice -c "exec /bin/send $*"; }
        "$@"
    )
}
group_file() { echo /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/$LOOP/iommu_group)); }
is_powerless() { [ "$(su alice -c 'id -u; grep CapEff /proc/self/status' | tr -d ' \t\n')" = 1000CapEff:0000000000000000 ]; }
owned() { found=$(stat -c %u:%a $(group_file)); echo $found; [ $found = 1000:600 ]; }
# says TEXT COMMAND...: it fails, and that is what it says.
says() { text=$1; shift; "$@" >/tmp/refusal 2>&1 && return 1; cat /tmp/refusal; grep -q "$text" /tmp/refusal; }
killed() {
    kill -9 $sender
    wait $sender
    [ $? = 137 ] || { cat /tmp/killed; return 1; }
}

modules $STOCK_MODULES $VFIO_MODULES
check "every device is in an IOMMU group" within 20 in_a_group $SLOW
check "bind takes the device from ixgbe" xtask bind $LOOP $SLOW
check "vfio-pci has it" driven_by $LOOP vfio-pci
check "info knows it" sh -c "info --device $LOOP | grep '8086:10f7'"
check "a file comes back byte-identical" verified $FILE --device $LOOP
check "the same flags on a model in the same process" verified $FILE --device emulated:ixgbe
stillwire-emulator --socket /tmp/nic.sock --once >/dev/null 2>&1 &
check "a model in another process listens" within 10 [ -S /tmp/nic.sock ]
check "the same flags on a model in another process" verified $FILE --device vfio-user:/tmp/nic.sock
check "writers about: no frame is torn, writers wait" scribbled $FILE --device $LOOP
check "the same without holds: frames are torn" torn_without_holds $FILE --device $LOOP
check "by cable to the kernel's socket" transfer $NEAR $FAR
check "the other way" transfer $FAR $NEAR
send $FILE --device $SLOW --seconds 60 >/tmp/killed 2>&1 &
sender=$!
host frames slow
check "the sender is killed with descriptors queued" killed
check "the device works for the next one" verified /init --device $SLOW
check "bind takes an E810 that nobody drives" xtask bind $E810
check "info knows it as well" sh -c "info --device $E810 | grep '8086:1592'"
check "an E810: a file comes back byte-identical" verified $FILE --device $E810
check "an E810: in runs that it cuts" verified $FILE --device $E810 --segment
check "an E810, writers about: no frame is torn, writers wait" scribbled $FILE --device $E810
check "an E810, the same without holds: frames are torn" torn_without_holds $FILE --device $E810
# An ordinary user, with a group's file and leave to lock memory, and nothing else.
mkdir -p /etc && echo "alice:x:1000:1000::/tmp:/bin/sh" >/etc/passwd
may_lock=8192
check "a user without capabilities" is_powerless
check "without the group's file: told what to type" says "sudo chown 1000 $(group_file)" as_alice send $FILE --device $LOOP
check "bind --user knows its users" says "there is no user bob" xtask bind --user bob $LOOP
check "bind --user gives the group's file" xtask bind --user alice $LOOP
check "it is that user's alone" owned
# At a limit above 0 the kernel maps some of the memory, and takes it away again with the bus on: of a mapping that nobody got.
may_lock=0
check "with too little memory to lock: told the limit" says "may lock 0 KiB.*prlimit --memlock" as_alice send $FILE --device $LOOP
may_lock=131072
check "an ordinary user: a file comes back byte-identical" as_alice verified $FILE --device $LOOP --cache 64
check "an ordinary user, writers about: no frame is torn, writers wait" as_alice scribbled $FILE --device $LOOP --cache 64
check "an ordinary user: what waits and what does not is said" grep -q "USER_MODE\|EFAULT" /tmp/errors
check "unbind gives the device back to ixgbe" xtask unbind $LOOP
check "and the user's file is gone" [ ! -e $(group_file) ]
check "ixgbe has it" driven_by $LOOP ixgbe
check "ixgbe brings it up" address $LOOP 10.79.0.2/24
