# What proofs of our driver have in common. The JSON object that `send` or `receive` prints is the last line of a file.
FILE=/tmp/file
in_a_group() { [ -e /sys/bus/pci/devices/$1/iommu_group ]; }
driven_by() { [ "$(basename $(readlink /sys/bus/pci/devices/$1/driver))" = $2 ]; }
field_of() { tail -n 1 $1 | sed -n "s/.*\"$2\":\([^,}]*\).*/\1/p"; }
field() { field_of /tmp/sent $1; }
sends() { send "$@" --json >/tmp/sent 2>/tmp/errors || { cat /tmp/sent /tmp/errors; return 1; }; cat /tmp/sent; }
verified() { sends "$@" && [ "$(field verified)" = true ] && [ "$(field torn)" = 0 ]; }

# A program that runs cannot be written to, and writers are to write.
cat /bin/send /bin/receive /bin/info /bin/xtask /bin/stillwire-emulator >$FILE
echo "fact file_bytes $(stat -c %s $FILE)"
