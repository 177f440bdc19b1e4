//! A table as it grows.

/// Words, as they stand in memory.
pub(super) struct Table(Vec<u64>);

impl Table {
    /// With room for the header.
    pub(super) fn new() -> Self {
        Self(vec![0])
    }

    /// Appends words: where they begin, in bytes.
    pub(super) fn put(&mut self, words: impl IntoIterator<Item = u64>) -> u32 {
        let offset = (self.0.len() * size_of::<u64>()) as u32;
        self.0.extend(words);
        offset
    }

    /// Appends `u32` side by side, filled up to whole words.
    pub(super) fn put_u32(&mut self, values: &[u32]) -> u32 {
        self.put(values.chunks(2).map(|chunk| halves(chunk[0], chunk.get(1).copied().unwrap_or(0))))
    }

    /// Appends `u16` side by side, filled up to whole words.
    pub(super) fn put_u16(&mut self, values: &[u16]) -> u32 {
        self.put(values.chunks(4).map(|chunk| {
            let mut bytes = [0; 8];
            for (place, value) in bytes.chunks_mut(2).zip(chunk) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
            u64::from_ne_bytes(bytes)
        }))
    }

    /// The table, with its header.
    pub(super) fn finish(mut self, rules: u32, rule_count: u32) -> Vec<u64> {
        self.0[0] = halves(rules, rule_count);
        self.0
    }
}

/// Two `u32` that stand side by side in memory.
pub(super) fn halves(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}
