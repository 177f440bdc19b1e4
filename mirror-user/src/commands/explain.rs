//! `explain`: what the attached programs say about packets that never were on a wire. The answer is the kernel's; only
//! the names are put to it here.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use mirror_common::session::SessionSlot;
use mirror_common::table::RuleEntry;
use serde::Serialize;

use crate::cli::{Explain, Global};
use crate::commands::change::load;
use crate::commands::{print, steadily};
use crate::definitions::Definitions;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::{Answer, AttachedJudge, Kernel};
use crate::links::Links;
use crate::question::{askable, capture, hex};
use crate::state::{Session, State};
use crate::tap::Tap;

/// What `explain --json` prints of a packet.
#[derive(Debug, Serialize)]
struct Document {
    /// Its place in the file, if it comes from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<u64>,
    verdict: &'static str,
    session: Option<String>,
    session_number: Option<u16>,
    rule_number: Option<u16>,
    reason: String,
}

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

fn words(document: &Document) -> String {
    let packet = document.packet.map_or_else(String::new, |packet| format!("packet {packet}: "));
    match (&document.session, document.session_number) {
        (Some(session), Some(number)) => {
            format!("{packet}mirrored by session {session} (number {number}): {}", document.reason)
        }
        _ => format!("{packet}not mirrored: {}", document.reason),
    }
}

/// Asks the attached program of one direction, and names what it answers.
struct Interpreter {
    judge: AttachedJudge,
    sessions: Vec<Session>,
    definitions: Definitions,
}

impl Interpreter {
    fn open(instance: &Instance, what: &str, arguments: &Explain) -> Result<Self> {
        let definitions = load(instance)?;
        let state = State::load(instance)?;
        state.require_this_network_namespace(what, instance)?;
        let not_attached = || {
            Error::new(Kind::NotFound, what, format_args!("instance {} has not attached it", instance.name()))
                .hint("'mirrorctl status' lists what is attached")
        };
        let source = state.source(&arguments.source).filter(|source| source.attached).ok_or_else(not_attached)?;
        let kernel = Kernel::open(instance).ok_or_else(not_attached)?;
        let tap = Tap::find(instance, &Links::open()?)?
            .ok_or_else(|| Error::new(Kind::Failed, what, "the tap was removed by somebody else"))?;
        let judge = kernel.judge(source.ifindex, source.generation, arguments.direction, tap.sending.index)?;
        Ok(Self { judge, sessions: source.sessions.clone(), definitions })
    }

    fn explain(&self, what: &str, packet: Option<u64>, frame: &[u8]) -> Result<Document> {
        let frame = askable(frame).map_err(|error| Error::new(Kind::BadInput, what, error))?;
        let answer = self.judge.verdict(&frame)?;
        let (verdict, session, rule, reason) = match answer {
            Answer::Rule(rule) => {
                let session = self.session(what, rule.slot)?;
                let reason = match rule.number {
                    0 => format!("network service dns of filter {} accepts it", self.filter(session)),
                    number => format!("rule {number} of filter {} accepts it", self.filter(session)),
                };
                ("mirror", Some(session), Some(rule), reason)
            }
            Answer::NonIp(slot) => {
                let session = self.session(what, slot)?;
                let reason = format!("it is not IP, and filter {} takes such frames", self.filter(session));
                ("mirror", Some(session), None, reason)
            }
            Answer::Rejected(rule) => {
                let session = self.session(what, rule.slot)?;
                let reason = format!(
                    "rule {} of filter {} rejects it for session {}, and no later session accepts it",
                    rule.number,
                    self.filter(session),
                    session.name
                );
                ("none", None, None, reason)
            }
            Answer::None => ("none", None, None, "no rule of any session matches it".to_owned()),
        };
        let number = |rule: RuleEntry| (rule.number != 0).then_some(rule.number);
        Ok(Document {
            packet,
            verdict,
            session: session.map(|session| session.name.to_string()),
            session_number: session.map(|session| session.session_number.get()),
            rule_number: rule.and_then(number),
            reason,
        })
    }

    fn session(&self, what: &str, slot: SessionSlot) -> Result<&Session> {
        self.sessions
            .iter()
            .find(|session| session.slot == slot)
            .ok_or_else(|| Error::new(Kind::Failed, what, format_args!("the kernel names an unknown session, {slot}")))
    }

    fn filter(&self, session: &Session) -> String {
        let filter = self.definitions.filter(&session.filter.to_string());
        filter.map_or_else(|_| session.filter.to_string(), |filter| filter.name.to_string())
    }
}
