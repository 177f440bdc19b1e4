#!/bin/busybox sh
# What a user would type on this kernel, and what should come of it: generator g0 - s0 host u0 - c0 collector.

# Busybox has commands of these names, and its shell would take them first.
ip() { /bin/ip "$@"; }
tc() { /bin/tc "$@"; }
host() { nsenter --net=/run/netns/host "$@"; }
mirrorctl() { host /bin/mirrorctl "$@"; }

fail() {
    echo "smoke: $*" >&2
    exit 1
}

# The host as detach should leave it.
traces() {
    ip -n host -details -oneline link show
    tc -n host qdisc show
    for interface in s0 u0; do
        tc -n host filter show dev $interface ingress
        tc -n host filter show dev $interface egress
    done
    find /sys/fs/bpf
}

for namespace in generator host collector; do
    ip netns add $namespace || fail "make namespace $namespace"
done
ip link add g0 netns generator type veth peer name s0 netns host || fail "make the source's link"
ip link add u0 netns host type veth peer name c0 netns collector || fail "make the uplink"
while read -r namespace interface v4 v6; do
    # No link-local addresses: nobody speaks unasked.
    ip -n $namespace link set $interface addrgenmode none
    ip -n $namespace address add $v4/24 dev $interface
    ip -n $namespace address add $v6/64 dev $interface nodad
    ip -n $namespace link set $interface up || fail "set $interface up"
done << END
generator g0 10.1.0.1 fd01::1
host s0 10.1.0.2 fd01::2
host u0 10.2.0.1 fd02::1
collector c0 10.2.0.2 fd02::2
END
traces > /tmp/before

# Before Linux 6.6 there is no TCX.
release=$(uname -r)
minor=${release#*.}
minor=${minor%%[!0-9]*}
if [ "${release%%.*}" -eq 6 ] && [ "$minor" -lt 6 ]; then
    mirrorctl attach s0 --target 10.2.0.2 --hook tcx > /tmp/out 2>&1
    status=$?
    [ $status -eq 2 ] || fail "attach --hook tcx ended with $status: $(cat /tmp/out)"
    grep -q 'Linux 6\.6' /tmp/out || fail "attach --hook tcx doesn't name Linux 6.6: $(cat /tmp/out)"
    traces | diff /tmp/before - || fail "attach --hook tcx was refused and left something"
    hook=tc
else
    hook=tcx
fi

for target in 10.2.0.2 fd02::2; do
    mirrorctl attach s0 --target $target --vni 42 || fail "attach to $target failed"
    mirrorctl status | grep -qw $hook || fail "attach did not take the hook $hook: $(mirrorctl status)"
    timeout 60 nsenter --net=/run/netns/collector /bin/mirrorctl capture --vni 42 --count 8 > /tmp/copies 2>&1 &
    capture=$!
    # UDP port 4789, as the kernel lists its sockets.
    tries=0
    until grep -q ':12B5 ' /proc/$capture/net/udp /proc/$capture/net/udp6; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "capture does not listen: $(cat /tmp/copies)"
        usleep 100000
    done
    # Questions and answers, one after another.
    ip netns exec generator ping -q -c 2 -W 5 10.1.0.2 > /tmp/out || fail "the original IPv4 traffic: $(cat /tmp/out)"
    ip netns exec generator ping -q -c 2 -W 5 fd01::2 > /tmp/out || fail "the original IPv6 traffic: $(cat /tmp/out)"
    wait $capture || fail "8 copies should have reached $target: $(cat /tmp/copies; mirrorctl stats)"
    cat /tmp/copies
    mirrorctl stats || fail "stats failed"
    mirrorctl detach s0 || fail "detach failed"
    traces | diff /tmp/before - || fail "detach left something"
done
mirrorctl doctor || fail "doctor found something wrong"
for namespace in generator host collector; do
    ip netns del $namespace
done
