//! What becomes of a copy: a line, a JSON object, a block of pcapng.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Counters;
use crate::commands::time::Utc;
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
}
