# A shell for whoever wants to try it by hand.
modules $STOCK_MODULES $VFIO_MODULES
cat /bin/send /bin/receive /bin/info /bin/xtask /bin/stillwire-emulator >/tmp/file
cat <<'TEXT'

Devices: 0000:00:05.0 and 0000:00:06.0 are joined by a cable; 0000:00:07.0 and 0000:00:08.0 (slow) hear themselves.
Programs: send, receive, info, stillwire-emulator, xtask (bind, unbind), ethtool, and busybox's. A file: /tmp/file.
`poweroff -f` ends it.

TEXT
setsid cttyhack sh
poweroff -f
