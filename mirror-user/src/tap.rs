//! The tap: a veth pair between the source hooks and the place where copies are made.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::links::{Link, Links};
use crate::offloads;

/// Largest MTU of a veth device: no frame of any source is too long for it.
const MTU: u32 = 65535;

/// The two ends of a tap.
#[derive(Clone, Debug)]
pub struct Tap {
    /// Source hooks clone to it.
    pub sending: Link,
    /// The kernel hands the clones to the program here.
    pub receiving: Link,
}

impl Tap {
    /// Makes the pair. Both ends are down: nothing can pass before there is a program to receive it.
    pub fn create(instance: &Instance, links: &Links) -> Result<Self> {
        let (sending, receiving) = (instance.tap_device(), instance.encapsulation_device());
        links.add_veth(&sending, &receiving)?;
        // The stack would greet a new link with its own packets (router solicitations, MLD); no helper device has an
        // address.
        for device in [&sending, &receiving] {
            set(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        }
        // Only a device that forwards may ask for routes (bpf_fib_lookup). No packet is forwarded from here by the
        // stack: the program takes them all.
        set(&format!("ipv4/conf/{receiving}/forwarding"), "1")?;
        set(&format!("ipv6/conf/{receiving}/forwarding"), "1")?;
        // Copies for this very host come in here with addresses of its own at both ends.
        set(&format!("ipv4/conf/{receiving}/accept_local"), "1")?;
        set(&format!("ipv4/conf/{receiving}/rp_filter"), "0")?;
        // With nothing to leave to the device, the kernel cuts GSO packets and fills in checksums before the pair
        // (validate_xmit_skb in net/core/dev.c).
        offloads::switch_off_for_sending(&sending)?;
        Self::find(instance, links)?
            .ok_or_else(|| Error::new(Kind::Failed, format_args!("create interface {sending}"), "it is gone again"))
    }

    /// Lets packets through.
    pub fn set_up(&self, links: &Links) -> Result<()> {
        links.set_up_quietly(&self.receiving, MTU)?;
        links.set_up_quietly(&self.sending, MTU)
    }

    /// The pair of the instance, if it is there.
    pub fn find(instance: &Instance, links: &Links) -> Result<Option<Self>> {
        let sending = links.find(&instance.tap_device())?;
        let receiving = links.find(&instance.encapsulation_device())?;
        Ok(sending.zip(receiving).map(|(sending, receiving)| Self { sending, receiving }))
    }

    /// Removes the pair, or what is left of it.
    pub fn remove(instance: &Instance, links: &Links) -> Result<()> {
        for device in [instance.tap_device(), instance.encapsulation_device()] {
            if let Some(link) = links.find(&device)? {
                links.delete(&link)?;
            }
        }
        Ok(())
    }
}

/// Writes a setting of the network namespace. One whose protocol the kernel doesn't have is left alone.
pub(crate) fn set(setting: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(setting);
    if setting.starts_with("ipv6/") && !PathBuf::from("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    fs::write(&path, value).map_err(|error| Error::failed(format_args!("write {}", path.display()), &error))
}
