//! What a device offers to do for the kernel in sending: asked, and switched off. There is no netlink crate that can; the
//! ioctl is the one that `ethtool -K` falls back to (include/uapi/linux/ethtool.h).

use std::ffi::CStr;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::error::{Error, Result};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// Switches off checksumming, scatter-gather, segmentation and VLAN insertion in sending on the device `name`: what is
/// left is a device to which the kernel hands finished wire packets.
pub fn switch_off_for_sending(name: &str) -> Result<()> {
    let failed = |error| Error::failed(format_args!("switch off transmit offloads of {name}"), &error);
    let features = feature_names(name).map_err(failed)?;
    // Blocks of 32 features: { which ones to set, their values }.
    let mut request = vec![0u32; 2 + 2 * features.len().div_ceil(32)];
    request[0] = ETHTOOL_SFEATURES;
    request[1] = features.len().div_ceil(32) as u32;
    for (index, feature) in features.iter().enumerate() {
        if is_for_sending(feature) {
            request[2 + 2 * (index / 32)] |= 1 << (index % 32);
        }
    }
    // A positive result tells that the device keeps some feature; which ones matter is for the caller's tests.
    ethtool(name, &mut request).map_err(failed)?;
    Ok(())
}

/// Whether the kernel gives the device `name` finished wire packets only: every checksum filled in, nothing to segment.
pub fn leaves_nothing_to(name: &str) -> io::Result<bool> {
    let features = feature_names(name)?;
    // Blocks of 32 features: { available, requested, active, never changed }.
    const BLOCK: usize = 4;
    const ACTIVE: usize = 2;
    let blocks = features.len().div_ceil(32);
    let mut answer = vec![0u32; 2 + BLOCK * blocks];
    answer[0] = ETHTOOL_GFEATURES;
    answer[1] = blocks as u32;
    ethtool(name, &mut answer)?;
    let is_active = |index: usize| answer[2 + BLOCK * (index / 32) + ACTIVE] >> (index % 32) & 1 != 0;
    Ok(!features.iter().enumerate().any(|(index, feature)| is_active(index) && finishes(feature)))
}

/// Whether a device with this feature may be given a packet to finish. The kernel segments a packet unless the device has
/// every feature that it needs (`net_gso_ok`): those of tunnels, or of TCP's flags, are nothing without one of these.
fn finishes(feature: &str) -> bool {
    feature.starts_with("tx-checksum-")
        || matches!(feature, "tx-tcp-segmentation" | "tx-tcp6-segmentation" | "tx-udp-segmentation")
}

/// The name of the driver of the device `name`.
pub fn driver(name: &str) -> io::Result<String> {
    // `struct ethtool_drvinfo`: the command, then 32 bytes of name; 196 bytes in all.
    const WORDS: usize = 49;
    const NAME_WORDS: usize = 8;
    let mut answer = vec![0u32; WORDS];
    answer[0] = ETHTOOL_GDRVINFO;
    ethtool(name, &mut answer)?;
    let driver: Vec<u8> = answer[1..=NAME_WORDS].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(CStr::from_bytes_until_nul(&driver).unwrap_or_default().to_string_lossy().into_owned())
}

/// The names are the kernel's (net/ethtool/common.c, `netdev_features_strings`); some of the "tx-" ones say what the
/// device *is* and can't be switched, which the kernel ignores.
fn is_for_sending(feature: &str) -> bool {
    feature.starts_with("tx-checksum")
        || feature.starts_with("tx-scatter-gather")
        || feature.starts_with("tx-vlan") && feature.ends_with("-insert")
        || feature.starts_with("tx-") && feature.ends_with("-segmentation")
        || feature.starts_with("tx-") && feature.contains("-seg")
        || feature == "tx-generic-segmentation"
        || feature == "tx-gso-list"
        || feature == "tx-gso-partial"
}

fn feature_names(name: &str) -> io::Result<Vec<String>> {
    // { command, reserved, mask of string sets (64 bits), number of strings }.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(name, &mut info)?;
    let count = info[4] as usize;
    let mut strings = vec![0u32; 3 + count * ETH_GSTRING_LEN / 4];
    strings[0] = ETHTOOL_GSTRINGS;
    strings[1] = ETH_SS_FEATURES;
    strings[2] = count as u32;
    ethtool(name, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(bytes
        .chunks_exact(ETH_GSTRING_LEN)
        .map(|string| CStr::from_bytes_until_nul(string).unwrap_or_default().to_string_lossy().into_owned())
        .collect())
}

/// One ethtool command: `request` begins with its number, and has room for the whole answer.
fn ethtool(name: &str, request: &mut [u32]) -> io::Result<()> {
    // Any socket will do.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::", 0)))?;
    let mut ifreq = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: request.as_mut_ptr().cast() },
    };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    // SAFETY: `ifreq` names a device and points to `request`, which outlives the call; the callers above give each
    // command the room that its layout in ethtool.h asks for.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sending_is_switched_off() {
        for feature in [
            "tx-scatter-gather",
            "tx-scatter-gather-fraglist",
            "tx-checksum-ip-generic",
            "tx-checksum-sctp",
            "tx-vlan-hw-insert",
            "tx-vlan-stag-hw-insert",
            "tx-generic-segmentation",
            "tx-tcp-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-gre-csum-segmentation",
            "tx-udp-segmentation",
            "tx-udp_tnl-csum-segmentation",
            "tx-gso-partial",
            "tx-gso-list",
        ] {
            assert!(is_for_sending(feature), "{feature}");
        }
        for feature in ["rx-checksum", "rx-gro", "highdma", "tx-lockless", "rx-vlan-hw-parse", "loopback", ""] {
            assert!(!is_for_sending(feature), "{feature}");
        }
    }

    #[test]
    fn the_kernel_names_its_features() {
        let names = feature_names("lo").expect("ask the kernel about lo");
        assert!(names.iter().any(|name| name == "tx-generic-segmentation"), "{names:?}");
    }
}
