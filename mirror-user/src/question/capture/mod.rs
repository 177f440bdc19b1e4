//! The frames of a capture file: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), of either byte
//! order.
//!
//! A file is read as it comes, one packet at a time, and no length in it is believed: memory holds at most one packet
//! of [`PACKET_MAX`] bytes and [`INTERFACES_MAX`] interfaces. What `explain` doesn't need (times, options, names,
//! comments, blocks of other kinds) is skipped unread.

mod link;

use std::io::{self, BufReader, ErrorKind, Read};

pub use self::link::LinkType;

/// The longest packet that is read: libpcap's own bound (MAXIMUM_SNAPLEN).
pub const PACKET_MAX: u32 = 262_144;
/// Most interfaces of a section.
pub const INTERFACES_MAX: usize = 65_536;

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the file; the first is 1.
    pub number: u64,
    /// What was captured of it, behind an Ethernet header: its own or, for other link types, one with zero addresses.
    pub frame: Vec<u8>,
    /// What it had in front in the file.
    pub link: LinkType,
    /// Bytes at its end that were not captured, as the file says.
    pub missing: u32,
}

/// Why a capture can't be read, or a packet of it can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The reader failed.
    #[error("read capture after packet {after}: {source}")]
    Read {
        /// The last packet that was read, or 0.
        after: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another kind of file.
    #[error("read capture: it is neither pcap nor pcapng")]
    Unknown,
    /// A version from the future.
    #[error("read capture: it is of {format} version {version}; {known} is the one that is known")]
    Version {
        /// pcap or pcapng.
        format: &'static str,
        /// What it says.
        version: u16,
        /// What is known.
        known: u16,
    },
    /// The file ends too early.
    #[error("read capture: it is cut off inside packet {0}")]
    CutPacket(u64),
    /// The file ends too early, in something else than a packet.
    #[error("read capture: it is cut off after packet {0}")]
    Cut(u64),
    /// A packet beyond all bounds.
    #[error("read packet {packet} of capture: it says that it has {length} bytes; {PACKET_MAX} are the most")]
    TooLong {
        /// The packet.
        packet: u64,
        /// Its bytes, as the file says.
        length: u32,
    },
    /// A block that contradicts itself.
    #[error("read capture after packet {after}: {why}")]
    Malformed {
        /// The last packet that was read, or 0.
        after: u64,
        /// Which way.
        why: &'static str,
    },
    /// A packet that can't be made a frame. The iteration goes on behind it.
    #[error("read packet {packet} of capture: its link type is {link}; Ethernet, raw IP and Linux cooked are known")]
    LinkType {
        /// The packet.
        packet: u64,
        /// What it is.
        link: LinkType,
    },
    /// A packet too short for what its link type puts in front. The iteration goes on behind it.
    #[error("read packet {packet} of capture: it has {length} bytes, fewer than a header of link type {link}")]
    CutHeader {
        /// The packet.
        packet: u64,
        /// What it is.
        link: LinkType,
        /// Bytes that were captured.
        length: usize,
    },
}

impl CaptureError {
    /// Whether it is about one packet only, and those behind it can be read.
    pub const fn is_about_one_packet(&self) -> bool {
        matches!(self, Self::LinkType { .. } | Self::CutHeader { .. })
    }
}

/// Reads a capture: an iterator of its packets. After an error that is about more than one packet it ends.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    format: Format,
    /// Packets so far.
    count: u64,
    has_ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap {
        link: LinkType,
        /// Bytes of a packet's header.
        header: usize,
    },
    Pcapng {
        interfaces: Vec<Interface>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    /// Packets are cut to this; 0 for never.
    snap_length: u32,
}

/// Numbers of a reader. A file says in its first bytes which byte order it has.
#[derive(Debug)]
struct Input<R> {
    reader: BufReader<R>,
    big_endian: bool,
}

/// Why bytes are missing: the end, or an error.
enum Missing {
    End,
    Failed(io::Error),
}

impl<R: Read> Input<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Missing> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Missing::End,
            _ => Missing::Failed(error),
        })?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Missing> {
        let bytes = self.bytes()?;
        Ok(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Result<u32, Missing> {
        let bytes = self.bytes()?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// So many bytes. Memory grows as they come, not as many as are promised.
    fn take(&mut self, length: u32) -> Result<Vec<u8>, Missing> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(length.into()).read_to_end(&mut bytes).map_err(Missing::Failed)?;
        if bytes.len() == length as usize { Ok(bytes) } else { Err(Missing::End) }
    }

    fn skip(&mut self, length: u32) -> Result<(), Missing> {
        let skipped = io::copy(&mut self.reader.by_ref().take(length.into()), &mut io::sink());
        match skipped.map_err(Missing::Failed)? {
            skipped if skipped == u64::from(length) => Ok(()),
            _ => Err(Missing::End),
        }
    }

    /// Whether there is nothing more.
    fn is_at_end(&mut self) -> Result<bool, Missing> {
        use io::BufRead as _;
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(bytes.is_empty()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Missing::Failed(error)),
            }
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of a capture.
    pub fn new(reader: R) -> Result<Self, CaptureError> {
        let mut input = Input { reader: BufReader::new(reader), big_endian: false };
        let magic = input.bytes::<4>().map_err(|missing| match missing {
            Missing::End => CaptureError::Unknown,
            Missing::Failed(source) => CaptureError::Read { after: 0, source },
        })?;
        let mut reader = Self { input, format: Format::Pcapng { interfaces: Vec::new() }, count: 0, has_ended: false };
        match u32::from_le_bytes(magic) {
            SECTION_HEADER => reader.section_header()?,
            magic => reader.pcap_header(magic)?,
        }
        Ok(reader)
    }

    /// The error for bytes that are missing outside of packets.
    fn cut(&self, missing: Missing) -> CaptureError {
        match missing {
            Missing::End => CaptureError::Cut(self.count),
            Missing::Failed(source) => CaptureError::Read { after: self.count, source },
        }
    }

    /// The error for bytes that are missing inside a packet.
    fn cut_packet(&self, missing: Missing) -> CaptureError {
        match missing {
            Missing::End => CaptureError::CutPacket(self.count + 1),
            Missing::Failed(source) => CaptureError::Read { after: self.count, source },
        }
    }

    fn malformed(&self, why: &'static str) -> CaptureError {
        CaptureError::Malformed { after: self.count, why }
    }

    /// The next packet, which had `original` bytes before it was captured.
    fn packet(&mut self, link: LinkType, original: u32, data: Vec<u8>) -> Result<Packet, CaptureError> {
        self.count += 1;
        let missing = original.saturating_sub(data.len() as u32);
        Ok(Packet { number: self.count, frame: link.frame(self.count, data)?, link, missing })
    }

    fn packet_length(&self, length: u32) -> Result<u32, CaptureError> {
        if length > PACKET_MAX { Err(CaptureError::TooLong { packet: self.count + 1, length }) } else { Ok(length) }
    }
}

/// draft-ietf-opsawg-pcap.
impl<R: Read> Reader<R> {
    /// Section 4: the file header, behind its magic number.
    fn pcap_header(&mut self, magic: u32) -> Result<(), CaptureError> {
        /// With times in microseconds, and in nanoseconds.
        const MAGICS: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];
        /// Not of the draft: an old Linux patch, whose packets have eight more bytes of header (libpcap, sf-pcap.c).
        const KUZNETZOV: u32 = 0xa1b2_cd34;
        const VERSION: u16 = 2;

        let is_known = |magic| MAGICS.contains(&magic) || magic == KUZNETZOV;
        self.input.big_endian = !is_known(magic);
        if self.input.big_endian && !is_known(magic.swap_bytes()) {
            return Err(CaptureError::Unknown);
        }
        let header = if [magic, magic.swap_bytes()].contains(&KUZNETZOV) { 24 } else { 16 };
        let version = self.input.u16().map_err(|missing| self.cut(missing))?;
        if version != VERSION {
            return Err(CaptureError::Version { format: "pcap", version, known: VERSION });
        }
        // Minor version, two reserved words, the length to which packets were cut.
        self.input.skip(14).map_err(|missing| self.cut(missing))?;
        // The upper half tells of frame check sequences.
        let link = LinkType(self.input.u32().map_err(|missing| self.cut(missing))? as u16);
        self.format = Format::Pcap { link, header };
        Ok(())
    }

    /// Section 5: a packet record.
    fn pcap_packet(&mut self, link: LinkType, header: usize) -> Result<Option<Packet>, CaptureError> {
        if self.input.is_at_end().map_err(|missing| self.cut(missing))? {
            return Ok(None);
        }
        // Behind the time.
        self.input.skip(8).map_err(|missing| self.cut_packet(missing))?;
        let length = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        let original = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        self.input.skip(header as u32 - 16).map_err(|missing| self.cut_packet(missing))?;
        let length = self.packet_length(length)?;
        let data = self.input.take(length).map_err(|missing| self.cut_packet(missing))?;
        self.packet(link, original, data).map(Some)
    }
}

// draft-ietf-opsawg-pcapng, section 11.1: block types. The section header's is the same in both byte orders.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Of old files (appendix A).
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Bytes of a block besides its body: type, and the length at both ends.
const BLOCK_FRAME: u32 = 12;

impl<R: Read> Reader<R> {
    /// Section 4.1: a section header block, behind its type. What was said before it holds no more.
    fn section_header(&mut self) -> Result<(), CaptureError> {
        const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
        const BODY: u32 = 16;
        const VERSION: u16 = 1;

        // The length comes before what tells its byte order.
        let length = self.input.bytes::<4>().map_err(|missing| self.cut(missing))?;
        let magic = self.input.bytes::<4>().map_err(|missing| self.cut(missing))?;
        self.input.big_endian = magic == BYTE_ORDER_MAGIC.to_be_bytes();
        if !self.input.big_endian && magic != BYTE_ORDER_MAGIC.to_le_bytes() {
            return Err(match self.count {
                0 => CaptureError::Unknown,
                _ => self.malformed("a section begins without a byte order"),
            });
        }
        let length = if self.input.big_endian { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
        let body = self.body(length, BODY)?;
        let version = self.input.u16().map_err(|missing| self.cut(missing))?;
        if version != VERSION {
            return Err(CaptureError::Version { format: "pcapng", version, known: VERSION });
        }
        // Minor version, the section's length, options.
        self.input.skip(body - 6).map_err(|missing| self.cut(missing))?;
        self.end_block(length)?;
        self.format = Format::Pcapng { interfaces: Vec::new() };
        Ok(())
    }

    /// Bytes of the body of a block that is `length` long in all, and whose body has `least` at least.
    fn body(&self, length: u32, least: u32) -> Result<u32, CaptureError> {
        if !length.is_multiple_of(4) {
            return Err(self.malformed("the length of a block is no multiple of 4"));
        }
        let body = length.checked_sub(BLOCK_FRAME).filter(|body| *body >= least);
        body.ok_or_else(|| self.malformed("a block is shorter than what it holds"))
    }

    /// Section 3.1: a block ends with its length once more.
    fn end_block(&mut self, length: u32) -> Result<(), CaptureError> {
        match self.input.u32().map_err(|missing| self.cut(missing))? {
            end if end == length => Ok(()),
            _ => Err(self.malformed("the two lengths of a block differ")),
        }
    }

    /// Reads blocks up to the next packet.
    fn pcapng_packet(&mut self) -> Result<Option<Packet>, CaptureError> {
        loop {
            if self.input.is_at_end().map_err(|missing| self.cut(missing))? {
                return Ok(None);
            }
            let kind = self.input.u32().map_err(|missing| self.cut(missing))?;
            if kind == SECTION_HEADER {
                self.section_header()?;
                continue;
            }
            let length = self.input.u32().map_err(|missing| self.cut(missing))?;
            match kind {
                INTERFACE_DESCRIPTION => self.interface(length)?,
                ENHANCED_PACKET | PACKET => return self.enhanced_packet(kind, length).map(Some),
                SIMPLE_PACKET => return self.simple_packet(length).map(Some),
                _ => {
                    let body = self.body(length, 0)?;
                    self.input.skip(body).map_err(|missing| self.cut(missing))?;
                    self.end_block(length)?;
                }
            }
        }
    }

    /// Section 4.2.
    fn interface(&mut self, length: u32) -> Result<(), CaptureError> {
        const BODY: u32 = 8;

        let body = self.body(length, BODY)?;
        let link = LinkType(self.input.u16().map_err(|missing| self.cut(missing))?);
        self.input.skip(2).map_err(|missing| self.cut(missing))?;
        let snap_length = self.input.u32().map_err(|missing| self.cut(missing))?;
        self.input.skip(body - BODY).map_err(|missing| self.cut(missing))?;
        self.end_block(length)?;
        let after = self.count;
        if let Format::Pcapng { interfaces } = &mut self.format {
            if interfaces.len() == INTERFACES_MAX {
                return Err(CaptureError::Malformed { after, why: "a section has more than 65536 interfaces" });
            }
            interfaces.push(Interface { link, snap_length });
        }
        Ok(())
    }

    fn interface_at(&self, index: u32) -> Result<Interface, CaptureError> {
        match &self.format {
            Format::Pcapng { interfaces } => interfaces.get(index as usize).copied(),
            Format::Pcap { .. } => None,
        }
        .ok_or_else(|| self.malformed("a packet is of an interface that is not described"))
    }

    /// Section 4.3, and appendix A for the old kind, whose interface has 16 bits before a counter.
    fn enhanced_packet(&mut self, kind: u32, length: u32) -> Result<Packet, CaptureError> {
        const BODY: u32 = 20;

        let body = self.body(length, BODY)?;
        let interface = if kind == PACKET {
            let interface = self.input.u16().map_err(|missing| self.cut_packet(missing))?;
            self.input.skip(2).map_err(|missing| self.cut_packet(missing))?;
            interface.into()
        } else {
            self.input.u32().map_err(|missing| self.cut_packet(missing))?
        };
        let interface = self.interface_at(interface)?;
        // The time.
        self.input.skip(8).map_err(|missing| self.cut_packet(missing))?;
        let captured = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        let original = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        self.packet_of_block(interface, (captured, original), body - BODY, length)
    }

    /// Section 4.4: of the first interface, and without the number of bytes captured.
    fn simple_packet(&mut self, length: u32) -> Result<Packet, CaptureError> {
        const BODY: u32 = 4;

        let body = self.body(length, BODY)?;
        let interface = self.interface_at(0)?;
        let original = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        let captured = if interface.snap_length == 0 { original } else { original.min(interface.snap_length) };
        self.packet_of_block(interface, (captured, original), body - BODY, length)
    }

    /// The packet at the beginning of the last `rest` bytes of the body of a block, by its captured and original length.
    fn packet_of_block(
        &mut self,
        interface: Interface,
        (captured, original): (u32, u32),
        rest: u32,
        length: u32,
    ) -> Result<Packet, CaptureError> {
        let captured = self.packet_length(captured)?;
        if captured > rest {
            return Err(self.malformed("a packet is longer than its block"));
        }
        let data = self.input.take(captured).map_err(|missing| self.cut_packet(missing))?;
        self.input.skip(rest - captured).map_err(|missing| self.cut_packet(missing))?;
        let end = self.input.u32().map_err(|missing| self.cut_packet(missing))?;
        if end != length {
            return Err(self.malformed("the two lengths of a block differ"));
        }
        self.packet(interface.link, original, data)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let packet = match self.format {
            Format::Pcap { link, header } => self.pcap_packet(link, header),
            Format::Pcapng { .. } => self.pcapng_packet(),
        };
        self.has_ended = match &packet {
            Ok(packet) => packet.is_none(),
            Err(error) => !error.is_about_one_packet(),
        };
        packet.transpose()
    }
}

#[cfg(test)]
mod tests;
