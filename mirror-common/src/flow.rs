//! The UDP source port of a copy: a hash of the flow, the same for both directions.

/// A flow as far as the source port goes: two ends and what they speak. The order of the ends doesn't matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// One end.
    pub a: End,
    /// The other end.
    pub b: End,
    /// The IP protocol, or the ethertype of a frame that is not IP.
    pub protocol: u16,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Network address (IPv4: first word; IPv6: all four) or, without IP, the MAC address (two words), as read from
    /// the packet.
    pub address: [u32; 4],
    /// TCP or UDP port; the identifier of an ICMP echo at both ends; 0 where there is none.
    pub port: u16,
}

/// Lowest source port: the dynamic range of RFC 6335 §6, as RFC 7348 §5 recommends.
pub const FIRST_SOURCE_PORT: u16 = 49152;

impl Flow {
    /// The UDP source port, 49152 to 65535.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        // Addition commutes: that is what makes both directions equal.
        let ends = self.a.hash().wrapping_add(self.b.hash());
        let hash = mix(ends ^ self.protocol as u32);
        // The dynamic range is 2^14 ports: its bits come from the top of the hash, the best mixed ones.
        FIRST_SOURCE_PORT | (hash >> 18) as u16
    }
}

impl End {
    #[inline(always)]
    const fn hash(&self) -> u32 {
        let [a, b, c, d] = self.address;
        // Rotations keep equal words from cancelling each other out.
        mix(mix(mix(mix(a ^ 0x9e37_79b9) ^ b) ^ c.rotate_left(8)) ^ d ^ ((self.port as u32) << 16 | self.port as u32))
    }
}

/// A 32-bit finaliser (multiply and xor-shift): every input bit reaches every output bit.
#[inline(always)]
const fn mix(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x7feb_352d);
    word ^= word >> 15;
    word = word.wrapping_mul(0x846c_a68b);
    word ^ word >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(i: u32) -> Flow {
        Flow {
            a: End { address: [0x0a00_0001, 0, 0, 0], port: 1024 + i as u16 },
            b: End { address: [0x0a00_0002 + (i >> 8), 0, 0, 0], port: 443 },
            protocol: 6,
        }
    }

    #[test]
    fn both_directions_have_one_port() {
        for i in 0..10_000 {
            let there = flow(i);
            let back = Flow { a: there.b, b: there.a, ..there };
            assert_eq!(there.source_port(), back.source_port(), "flow {i}");
        }
    }

    #[test]
    fn ports_stay_in_the_dynamic_range_and_spread() {
        let ports: std::collections::HashSet<u16> = (0..10_000).map(|i| flow(i).source_port()).collect();
        assert!(ports.iter().all(|&port| port >= FIRST_SOURCE_PORT));
        // 10,000 balls into 16,384 bins fill 7,487 of them on average, give or take 40.
        assert!(ports.len() > 7_200, "{} different ports for 10,000 flows", ports.len());
    }

    #[test]
    fn every_part_of_a_flow_counts() {
        let base = flow(0);
        let mut changed = [base; 4];
        changed[0].a.port += 1;
        changed[1].b.address[0] ^= 1;
        changed[2].protocol = 17;
        changed[3].a.address[3] = 1;
        for other in changed {
            assert_ne!(base.source_port(), other.source_port(), "{other:?}");
        }
    }
}
