//! `trace`: verdicts of live packets as they happen. A program in front of the attached one judges each packet a second
//! time, by the same table, for as long as this runs; before and after, it costs nothing.
//!
//! Standard output holds the verdicts and nothing else. `--json` prints one array, a verdict a line as they come; it is
//! closed when the command ends.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::time::Duration;

use mirror_common::policy::Direction;
use serde::Serialize;

use crate::cli::{Global, Trace};
use crate::commands::signals::{Signals, runtime};
use crate::commands::steadily;
use crate::commands::time::Utc;
use crate::commands::verdict::{Attached, Names, Verdict};
use crate::error::{Error, Kind, Result};
use crate::frame::Summary;
use crate::host;
use crate::instance::Instance;
use crate::kernel::{Seen, Tracer};
use crate::links::{Link, Links};

/// How often verdicts are taken. Between two, 8,000 fit for each direction.
const TURN: Duration = Duration::from_millis(20);
/// How often a change of policy is looked for, in turns: what is shown is at most 100 ms behind it.
const LOOK_EVERY: u32 = 4;

/// How many policies in a row may be replaced before one is caught.
const ATTEMPTS: u32 = 20;

/// What `trace --json` prints of a packet.
#[derive(Debug, Serialize)]
struct Document<'a> {
    time: String,
    direction: &'static str,
    length: u32,
    wire_packets: u32,
    #[serde(flatten)]
    verdict: Verdict,
    summary: &'a str,
}

/// Runs until Ctrl-C, SIGTERM, the count is reached, nobody reads any more, or the source is detached.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Trace) -> Result<()> {
    let what = format!("trace {}", arguments.interface);
    if arguments.count == Some(0) {
        return Err(Error::new(Kind::BadInput, what, "invalid value '0' for '--count': a count must be at least 1"));
    }
    host::require_root(&what)?;
    let mut output =
        Output { out: BufWriter::new(io::stdout()), json: global.json, printed: 0, count: arguments.count };
    let mut live = steadily(|| Live::begin(instance, &what, arguments))?;
    eprintln!("tracing {}", arguments.interface);
    let traced = runtime(&what)?.block_on(live.show(instance, &what, arguments, &mut output));
    let lost = live.tracer.lost().unwrap_or(0);
    let ended = traced.and_then(|()| output.finish().map_err(|error| written(&error)));
    if lost > 0 {
        eprintln!("{lost} verdicts came too fast to be shown");
    }
    match ended {
        Ok(()) | Err(Stop::Enough) => Ok(()),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Why no more is shown.
enum Stop {
    /// The count is reached, or nobody reads it any more.
    Enough,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn written(error: &io::Error) -> Stop {
    match error.kind() {
        ErrorKind::BrokenPipe => Stop::Enough,
        _ => Stop::Error(Error::failed("write to standard output", error)),
    }
}

/// A trace that runs.
struct Live {
    tracer: Tracer,
    names: Names,
    generation: crate::kernel::Generation,
    interface: Link,
    /// What to add to the monotonic clock to get the time since 1970.
    epoch: Duration,
}

impl Live {
    fn begin(instance: &Instance, what: &str, arguments: &Trace) -> Result<Self> {
        let Attached { kernel, source, names } = Attached::find(instance, what, &arguments.interface)?;
        let interface = Links::open()?
            .find(arguments.interface.as_str())?
            .filter(|link| link.index == source.ifindex)
            .ok_or_else(|| Error::new(Kind::NotFound, what, "the interface is gone"))?;
        let directions = match arguments.direction {
            Some(direction) => vec![direction],
            None => Direction::ALL.to_vec(),
        };
        let tracer = kernel.trace(instance, &interface, host::has_tcx()?, source.generation, &directions)?;
        Ok(Self { tracer, names, generation: source.generation, interface, epoch: epoch()? })
    }

    async fn show(
        &mut self,
        instance: &Instance,
        what: &str,
        arguments: &Trace,
        output: &mut Output,
    ) -> std::result::Result<(), Stop> {
        let mut signals = Signals::new()?;
        output.start().map_err(|error| written(&error))?;
        let mut turns = 0u32;
        loop {
            tokio::select! {
                biased;
                () = signals.any() => return Ok(()),
                () = tokio::time::sleep(TURN) => {}
            }
            let seen = self.tracer.take()?;
            output.add_all(self, &seen)?;
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(LOOK_EVERY) {
                self.follow(instance, what, arguments, output)?;
            }
        }
    }

    /// Goes on by the policy that is attached now, if it is another one.
    fn follow(
        &mut self,
        instance: &Instance,
        what: &str,
        arguments: &Trace,
        output: &mut Output,
    ) -> std::result::Result<(), Stop> {
        let mut attempts = ATTEMPTS;
        loop {
            let now = match Attached::find(instance, what, &arguments.interface) {
                Ok(now) if now.source.ifindex == self.interface.index => now,
                Ok(_) => {
                    return Err(Error::new(Kind::NotFound, what, "the interface was deleted and made again").into());
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    return Err(Error::new(Kind::NotFound, what, "it was detached").into());
                }
                // A change is under way; if it was interrupted, packets are judged by the old policy or the new one, and
                // what is shown are verdicts of the old one.
                Err(error) if error.kind() == Kind::Failed => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if now.source.generation == self.generation {
                return Ok(());
            }
            match now.kernel.retrace(&mut self.tracer, &self.interface, now.source.generation) {
                Ok(rest) => {
                    output.add_all(self, &rest)?;
                    self.names = now.names;
                    self.generation = now.source.generation;
                    return Ok(());
                }
                // That policy was replaced too in the meantime.
                Err(_) if attempts > 0 => attempts -= 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The time since 1970 when the monotonic clock was 0.
fn epoch() -> Result<Duration> {
    use nix::time::{ClockId, clock_gettime};
    let read =
        |clock| clock_gettime(clock).map(Duration::from).map_err(|error| Error::failed("read the clock", &error));
    Ok(read(ClockId::CLOCK_REALTIME)?.saturating_sub(read(ClockId::CLOCK_MONOTONIC)?))
}

/// Where verdicts are written.
struct Output {
    out: BufWriter<io::Stdout>,
    json: bool,
    printed: u64,
    count: Option<u64>,
}

impl Output {
    fn start(&mut self) -> io::Result<()> {
        if self.json {
            self.out.write_all(b"[")?;
        }
        self.out.flush()
    }

    fn add_all(&mut self, live: &Live, seen: &[Seen]) -> std::result::Result<(), Stop> {
        for seen in seen {
            let verdict = live.names.verdict(seen.answer)?;
            self.add(seen, live.epoch + seen.time, verdict).map_err(|error| written(&error))?;
            if self.count == Some(self.printed) {
                self.finish().map_err(|error| written(&error))?;
                return Err(Stop::Enough);
            }
        }
        self.out.flush().map_err(|error| written(&error))
    }

    fn add(&mut self, seen: &Seen, time: Duration, verdict: Verdict) -> io::Result<()> {
        let time = Utc(time);
        let summary = Summary::of(&seen.frame).text;
        let direction = seen.direction.name();
        if self.json {
            self.out.write_all(if self.printed == 0 { b"\n" } else { b",\n" })?;
            let document = Document {
                time: format!("{time:#}"),
                direction,
                length: seen.length,
                wire_packets: seen.wire_packets,
                verdict,
                summary: &summary,
            };
            serde_json::to_writer(&mut self.out, &document)?;
        } else {
            writeln!(self.out, "{time} {direction} len {}: {summary}: {verdict}", seen.length)?;
        }
        self.printed += 1;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.json {
            self.out.write_all(if self.printed == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()
    }
}
