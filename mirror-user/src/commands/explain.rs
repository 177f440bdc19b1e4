//! `explain`: what the attached programs say about packets that never were on a wire. The answer is the kernel's; only
//! the names are put to it here.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use serde::Serialize;

use crate::cli::{Explain, Global};
use crate::commands::verdict::{Attached, Names, Verdict};
use crate::commands::{print, steadily};
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::AttachedJudge;
use crate::links::Links;
use crate::question::{askable, capture, hex};
use crate::tap::Tap;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Explain) -> Result<()> {
    let what = format!("explain {} of {}", arguments.direction.name(), arguments.source);
    let question = &arguments.question;
    let bad = |error: &dyn std::error::Error| Error::new(Kind::BadInput, &what, error);
    // What can't be meant is refused before anything is asked of the host.
    let frame = match (&question.packet, &question.flow) {
        (Some(text), _) => Some(hex::parse(text).map_err(|error| bad(&error))?),
        (_, Some(flow)) => Some(flow.frame()),
        _ => None,
    };
    let capture = question.pcap.as_deref().map(|path| open(&what, path)).transpose()?;
    host::require_root(&what)?;
    let interpreter = steadily(|| Interpreter::open(instance, &what, arguments))?;

    if let Some(frame) = frame {
        let document = interpreter.explain(&what, None, &frame)?;
        return print(global.json, &document, || words(&document));
    }
    let Some(capture) = capture else {
        return Err(Error::new(Kind::BadInput, &what, "there is no packet to ask about"));
    };
    let mut documents = Vec::new();
    let mut unusable = None;
    for packet in capture::Reader::new(capture).map_err(|error| bad(&error))? {
        let document = match packet {
            Ok(packet) => interpreter.explain(&what, Some(packet.number), &packet.frame),
            Err(error) if error.is_about_one_packet() => Err(bad(&error)),
            Err(error) => {
                unusable = Some(bad(&error));
                break;
            }
        };
        match document {
            Ok(document) => documents.push(document),
            Err(error) => {
                eprintln!("warning: {error}");
                unusable = Some(Error::new(Kind::BadInput, &what, "some packets of the file could not be asked about"));
            }
        }
    }
    print(global.json, &documents, || documents.iter().map(|document| words(document) + "\n").collect())?;
    unusable.map_or(Ok(()), Err)
}

fn open(what: &str, path: &Path) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let failed = |error: &io::Error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::PermissionDenied => Kind::NotPermitted,
            _ => Kind::Failed,
        };
        Error::new(kind, what, format_args!("{}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    Ok(Box::new(file))
}

/// Asks the attached program of one direction, and names what it answers.
struct Interpreter {
    judge: AttachedJudge,
    names: Names,
}

impl Interpreter {
    fn open(instance: &Instance, what: &str, arguments: &Explain) -> Result<Self> {
        let Attached { kernel, source, names } = Attached::find(instance, what, &arguments.source)?;
        let tap = Tap::find(instance, &Links::open()?)?
            .ok_or_else(|| Error::new(Kind::Failed, what, "the tap was removed by somebody else"))?;
        let judge = kernel.judge(source.ifindex, source.generation, arguments.direction, tap.sending.index)?;
        Ok(Self { judge, names })
    }

    fn explain(&self, what: &str, packet: Option<u64>, frame: &[u8]) -> Result<Document> {
        let frame = askable(frame).map_err(|error| Error::new(Kind::BadInput, what, error))?;
        Ok(Document { packet, verdict: self.names.verdict(self.judge.verdict(&frame)?)? })
    }
}

/// What `explain --json` prints of a packet.
#[derive(Debug, Serialize)]
struct Document {
    /// Its place in the file, if it comes from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<u64>,
    #[serde(flatten)]
    verdict: Verdict,
}

fn words(document: &Document) -> String {
    let packet = document.packet.map_or_else(String::new, |packet| format!("packet {packet}: "));
    format!("{packet}{}", document.verdict)
}
