# A shell for whoever wants to try it by hand.
modules $STOCK_MODULES $VIRTIO_MODULES $VFIO_MODULES
cat /bin/send /bin/receive /bin/info /bin/xtask /bin/stillwire-emulator >/tmp/file
cat <<'TEXT'

Devices: 0000:00:05.0 and 0000:00:06.0 are joined by a cable; 0000:00:07.0 and 0000:00:08.0 (slow) hear themselves.
They are models of ours. 0000:00:09.0 and 0000:00:0a.0 are QEMU's own virtio-net, split and packed, joined by a hub.
Programs: send, receive, info, stillwire-emulator, xtask (bind, unbind), ethtool, and busybox's. A file: /tmp/file.
`poweroff -f` ends it.

TEXT
setsid cttyhack sh
poweroff -f
