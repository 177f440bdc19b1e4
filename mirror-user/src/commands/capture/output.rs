//! What becomes of a copy: a line, a JSON object, a block of pcapng.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Counters;
use crate::error::{Error, Kind, Result};
use crate::frame::Summary;
use crate::pcapng;

/// A copy, with all that is known about it.
pub struct Record<'a> {
    /// When it was received, since 1970.
    pub time: Duration,
    /// Outer source.
    pub source: SocketAddr,
    /// VXLAN network identifier.
    pub vni: u32,
    /// From the Ethernet header.
    pub frame: &'a [u8],
}

/// Everything that is written to, once it is open.
pub struct Output {
    printer: Option<Printer<BufWriter<io::Stdout>>>,
    recorder: Option<Recorder>,
}

/// Why nothing more is written.
pub enum Stop {
    /// Whoever reads it has gone: the end, and no error.
    NobodyReads,
    /// It can't be written.
    Error(Error),
}

impl Output {
    /// Opens `write`, if anything is to be written; prints otherwise. With `json` it prints in either case.
    pub fn open(write: Option<&Path>, json: bool, interface: &str) -> Result<Self> {
        let recorder = write.map(|path| Recorder::open(path, json, interface)).transpose()?;
        let style = if json { Style::Json } else { Style::Lines };
        let printer =
            (json || recorder.is_none()).then(|| Printer { out: BufWriter::new(io::stdout()), style, printed: 0 });
        Ok(Self { printer, recorder })
    }

    /// Writes what readers want to see before the first copy.
    pub fn start(&mut self) -> std::result::Result<(), Stop> {
        self.each(Printer::start, Recorder::flush)
    }

    /// Adds a copy; it is seen after the next [`Self::flush`] at the latest.
    pub fn add(&mut self, record: &Record<'_>) -> std::result::Result<(), Stop> {
        let summary = Summary::of(record.frame);
        self.each(|printer| printer.add(record, &summary), |recorder| recorder.add(record, &summary))
    }

    /// Hands over what was added, whole copies only.
    pub fn flush(&mut self) -> std::result::Result<(), Stop> {
        self.each(|printer| printer.out.flush(), Recorder::flush)
    }

    /// Writes what belongs at the end.
    pub fn finish(&mut self, time: Duration, counters: &Counters) -> std::result::Result<(), Stop> {
        self.each(Printer::finish, |recorder| {
            pcapng::put_statistics(&mut recorder.pending, time, counters.received, counters.dropped);
            recorder.flush()
        })
    }

    fn each(
        &mut self,
        print: impl FnOnce(&mut Printer<BufWriter<io::Stdout>>) -> io::Result<()>,
        record: impl FnOnce(&mut Recorder) -> io::Result<()>,
    ) -> std::result::Result<(), Stop> {
        let stop = |name: &str, error: io::Error| match error.kind() {
            ErrorKind::BrokenPipe => Stop::NobodyReads,
            _ => Stop::Error(Error::failed(format_args!("write {name}"), &error)),
        };
        if let Some(recorder) = &mut self.recorder {
            record(recorder).map_err(|error| stop(&recorder.name, error))?;
        }
        if let Some(printer) = &mut self.printer {
            print(printer).map_err(|error| stop(STDOUT, error))?;
        }
        Ok(())
    }
}

const STDOUT: &str = "standard output";

enum Style {
    /// A line for every copy.
    Lines,
    /// One array of objects, a line for each.
    Json,
}

struct Printer<W> {
    out: W,
    style: Style,
    printed: u64,
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    vni: u32,
    source: SocketAddr,
    length: usize,
    original_length: Option<usize>,
    cut: bool,
    summary: &'a str,
}

impl<W: Write> Printer<W> {
    fn start(&mut self) -> io::Result<()> {
        match self.style {
            Style::Lines => Ok(()),
            Style::Json => {
                self.out.write_all(b"[")?;
                self.out.flush()
            }
        }
    }

    fn add(&mut self, record: &Record<'_>, summary: &Summary) -> io::Result<()> {
        let time = Utc(record.time);
        match self.style {
            Style::Lines => writeln!(
                self.out,
                "{time} vni {} from {} len {}: {summary}",
                record.vni,
                record.source,
                record.frame.len()
            )?,
            Style::Json => {
                self.out.write_all(if self.printed == 0 { b"\n" } else { b",\n" })?;
                let record = JsonRecord {
                    time: format!("{time:#}"),
                    vni: record.vni,
                    source: record.source,
                    length: record.frame.len(),
                    original_length: summary.original_length,
                    cut: summary.is_cut(),
                    summary: &summary.text,
                };
                serde_json::to_writer(&mut self.out, &record)?;
            }
        }
        self.printed += 1;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Style::Json = self.style {
            self.out.write_all(if self.printed == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()
    }
}

/// A pcapng file. Whole blocks are handed to the kernel, so that the file is readable whenever the process ends.
struct Recorder {
    name: String,
    file: Box<dyn Write>,
    pending: Vec<u8>,
}

impl Recorder {
    fn open(path: &Path, json: bool, interface: &str) -> Result<Self> {
        let (name, file): (String, Box<dyn Write>) = if path == Path::new("-") {
            const WHAT: &str = "write pcapng to standard output";
            if json {
                return Err(Error::new(Kind::BadInput, WHAT, "--json prints there")
                    .hint("write to a file with --write FILE, or leave --json out"));
            }
            if io::stdout().is_terminal() {
                return Err(Error::new(Kind::BadInput, WHAT, "it is a terminal")
                    .hint("give it to a reader: mirrorctl capture -w - | tcpdump -n -r -"));
            }
            (STDOUT.to_owned(), Box::new(io::stdout()))
        } else {
            let file = File::create(path).map_err(|error| cannot_create(path, &error))?;
            (path.display().to_string(), Box::new(file))
        };
        let mut pending = Vec::new();
        pcapng::put_header(&mut pending, interface);
        Ok(Self { name, file, pending })
    }

    fn add(&mut self, record: &Record<'_>, summary: &Summary) -> io::Result<()> {
        let packet = pcapng::Packet {
            time: record.time,
            frame: record.frame,
            original_length: summary.original_length.unwrap_or(summary.length),
            comment: &format!("VNI {}, copy from {}", record.vni, record.source),
        };
        pcapng::put_packet(&mut self.pending, &packet);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.pending).and_then(|()| self.file.flush());
        self.pending.clear();
        result
    }
}

fn cannot_create(path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::PermissionDenied => Kind::NotPermitted,
        ErrorKind::IsADirectory => Kind::BadInput,
        _ => Kind::Failed,
    };
    Error::new(kind, format_args!("create {}", path.display()), error)
}

/// A time since 1970 as RFC 3339 has it: hours to microseconds, or from the year to nanoseconds with `{:#}`.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        if !f.alternate() {
            return write!(f, "{hour:02}:{minute:02}:{second:02}.{:06}Z", self.0.subsec_micros());
        }
        let (year, month, day) = date(seconds / 86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", self.0.subsec_nanos())
    }
}

/// Year, month and day, `days` after the first of January 1970.
///
/// Counted in years that begin in March, so that the leap day is the last of its year, and in eras of 400 years, which
/// all have 146,097 days.
const fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    // From the first of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March have 31, 30, 31, 30, 31 days, over and over: 153 in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    if month < 10 { (era * 400 + year, month + 3, day) } else { (era * 400 + year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(frame: &[u8]) -> Record<'_> {
        Record {
            time: Duration::new(1_700_000_000, 123_456_789),
            source: "192.0.2.1:50123".parse().unwrap(),
            vni: 42,
            frame,
        }
    }

    fn printed(style: Style, frames: &[&[u8]]) -> String {
        let mut printer = Printer { out: Vec::new(), style, printed: 0 };
        printer.start().unwrap();
        for frame in frames {
            printer.add(&record(frame), &Summary::of(frame)).unwrap();
        }
        printer.finish().unwrap();
        String::from_utf8(printer.out).unwrap()
    }

    const LLDP: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xcc];

    #[test]
    fn a_copy_is_a_line() {
        assert_eq!(
            printed(Style::Lines, &[&LLDP]),
            "22:13:20.123456Z vni 42 from 192.0.2.1:50123 len 14: 02:00:00:00:00:01 > 02:00:00:00:00:02 LLDP\n"
        );
        assert_eq!(printed(Style::Lines, &[]), "");
    }

    #[test]
    fn json_is_one_document_whatever_came() {
        let document =
            |frames: &[&[u8]]| -> serde_json::Value { serde_json::from_str(&printed(Style::Json, frames)).unwrap() };
        assert_eq!(document(&[]), serde_json::json!([]));
        assert_eq!(
            document(&[&LLDP]),
            serde_json::json!([{
                "time": "2023-11-14T22:13:20.123456789Z",
                "vni": 42,
                "source": "192.0.2.1:50123",
                "length": 14,
                "original_length": null,
                "cut": false,
                "summary": "02:00:00:00:00:01 > 02:00:00:00:00:02 LLDP",
            }])
        );
        assert_eq!(document(&[&LLDP, &LLDP[..3], &LLDP]).as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(format!("{:#}", Utc(Duration::from_secs(seconds))), expected);
        }
    }
}
