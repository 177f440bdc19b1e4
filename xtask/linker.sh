#!/bin/sh
# The linker of host builds (.cargo/config.toml names it): the C compiler, installed first where there is none.
#
# rustup brings no linker, and without one not even `cargo xtask` can be built to install it. What this prints,
# rustc shows when linking fails.
set -eu

if command -v cc >/dev/null 2>&1; then
    exec cc "$@"
fi

fail() {
    echo "error: link: no C compiler (cc)$1" >&2
    echo "hint: $2" >&2
    exit 1
}

# What happens is said to the terminal, where there is one: rustc keeps the rest to itself.
say() {
    (echo "setup: $1" >/dev/tty) 2>/dev/null || :
}

id='' like='' name='this system'
if [ -r /etc/os-release ]; then
    . /etc/os-release
    id=${ID:-} like=${ID_LIKE:-} name=${PRETTY_NAME:-$id}
fi
case " $id $like " in
*" debian "* | *" ubuntu "*) ;;
*" fedora "* | *" rhel "*) fail '' 'sudo dnf install gcc' ;;
*" arch "*) fail '' 'sudo pacman -S --needed gcc' ;;
*" suse "* | *" opensuse "*) fail '' 'sudo zypper install gcc' ;;
*" alpine "*) fail '' 'sudo apk add build-base' ;;
*) fail '' "install a C compiler with the package manager of $name" ;;
esac

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root=sudo
    command -v sudo >/dev/null 2>&1 ||
        fail ', not root, and there is no sudo' 'as root: apt-get update && apt-get install --no-install-recommends gcc libc6-dev'
fi

# cargo links several programs at once: one of them installs, the others wait here and then find it.
exec 9<"$0"
flock 9
if ! command -v cc >/dev/null 2>&1; then
    say 'install gcc libc6-dev (rustc links with the C compiler)'
    log=$(mktemp)
    if ! {
        $as_root apt-get -q update &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends --no-remove \
                -o DPkg::Lock::Timeout=120 install gcc libc6-dev
    } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail ', and installing it failed' 'sudo apt-get update && sudo apt-get install --no-install-recommends gcc libc6-dev'
    fi
    rm -f "$log"
fi
exec cc "$@" 9<&-
