#!/bin/busybox sh
# The first program of the machine: makes it a host, runs the tests, says what failed, switches off.
# Whatever it prints goes to the console, which `cargo xtask vm` reads.
export PATH=/bin
mkdir -p /dev /proc /sys /tmp /run /etc /var/tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
# The console shows only what the kernel thinks is an emergency: links that come and go are no news.
dmesg -n 1
echo 'root:x:0:0:root:/:/bin/sh' > /etc/passwd
/bin/ip link set lo up
# Makes /dev/net/tun; a distribution makes it at boot, and the kernel loads the module when it is opened.
modprobe tun

seconds() { cut -d. -f1 /proc/uptime; }
echo "vm: $(uname -sr) is up after $(seconds) s"

failed=
# Runs a program; $1 is its name in the verdict.
run() {
    name=$1
    shift
    before=$(seconds)
    if "$@"; then
        echo "vm: $name passed ($(($(seconds) - before)) s)"
    else
        echo "vm: $name FAILED with status $? ($(($(seconds) - before)) s)"
        failed="$failed $name"
    fi
}

run smoke /smoke
set --
while read -r argument; do
    set -- "$@" "$argument"
done < /arguments
export MIRRORCTL=/bin/mirrorctl RUST_BACKTRACE=0
for test in /tests/*; do
    [ -x "$test" ] && run "${test##*/}" "$test" "$@"
done

# What the kernel complained about belongs to the verdict as well: a refused program is one line, a bug is many.
if dmesg | grep -E 'WARNING:|BUG:|Oops|RCU stall|refcount_t'; then
    failed="$failed kernel-log"
fi
echo "vm-verdict:$failed"
poweroff -f
