//! Map `SKIPPED`: why a packet that a session accepted did not go out. Per CPU, indexed by [`SkipReason`].

macro_rules! skip_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why an accepted packet did not go out. Each is a counter and a line in `stats`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SkipReason {
            $($(#[$doc])* $variant,)*
        }

        impl SkipReason {
            /// All of them, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it in `stats` and in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

skip_reasons! {
    /// The clone could not be handed to the tap: no memory, the tap is down, or transmit recursion too deep.
    CloneFailed = "clone_failed",
    /// The session was removed while the copy was on its way.
    SessionGone = "session_gone",
    /// More IPv6 extension headers than are walked: judged as a packet without ports, and mirrored if a session wants
    /// it so.
    ExtensionHeadersTooDeep = "extension_headers_too_deep",
    /// More VLAN tags than the tap unstacks.
    VlanTooDeep = "vlan_too_deep",
    /// The frame ends in its VLAN tag, or less than two bytes behind it: the kernel takes no such frame in.
    VlanCutShort = "vlan_cut_short",
    /// The copy could not be cut to its length.
    CutFailed = "cut_failed",
    /// No room for the outer headers.
    EncapsulateFailed = "encapsulate_failed",
    /// The routing table has no route to the target, or says that the target is an address of this host (which it was not when
    /// the session was made).
    NoRoute = "no_route",
    /// A route says blackhole, unreachable or prohibit.
    RouteRefused = "route_refused",
    /// There is no address of this host to send from.
    NoSourceAddress = "no_source_address",
    /// The path MTU has no room for the outer headers and one byte.
    MtuTooSmall = "mtu_too_small",
    /// The kernel refused to send the finished copy.
    SendFailed = "send_failed",
    /// The target is this host, and no socket takes what comes to its UDP port.
    NobodyListens = "nobody_listens",
    /// The target is an interface that is gone.
    TargetInterfaceGone = "target_interface_gone",
    /// The interface that is the target did not take the frame: it is down, or its queue is full.
    TargetInterfaceRefused = "target_interface_refused",
}

/// How many reasons there are.
pub const SKIP_REASONS: u32 = SkipReason::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_reason_is_its_place_in_all() {
        for (index, reason) in SkipReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{}", reason.name());
        }
    }
}
