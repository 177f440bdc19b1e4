//! `capture`: receives copies, takes them out of their VXLAN headers, prints them or writes pcapng.
//!
//! Standard output holds the copies and nothing else; that it listens, and the counters at the end, go to standard
//! error. `--json` prints one array, a copy a line as they come; it is closed when the command ends.

mod output;
mod socket;

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::output::{Output, Record, Stop};
use self::socket::Socket;
use crate::cli;
use crate::commands::signals::{Signals, runtime};
use crate::error::{Error, Kind, Result};
use crate::vxlan::decapsulate;

/// Datagrams that are received before readers get to see them, and Ctrl-C is looked at, while there are always more.
const BATCH: usize = 256;

/// What became of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    /// All of them.
    received: u64,
    /// Copies printed or written.
    shown: u64,
    /// Copies with another VNI than the one asked for.
    other_vni: u64,
    /// No copies at all.
    malformed: u64,
    /// Datagrams that found the receive buffer full, if the kernel tells.
    dropped: Option<u64>,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, shown, other_vni, malformed, dropped } = self;
        write!(f, "{received} received, {shown} shown, {other_vni} with another VNI, {malformed} malformed, ")?;
        match dropped {
            Some(dropped) => write!(f, "{dropped} dropped by the kernel"),
            None => f.write_str("drops unknown"),
        }
    }
}

/// Runs until Ctrl-C, SIGTERM, the count is reached, or nobody reads any more.
pub fn run(arguments: &cli::Capture, json: bool) -> Result<()> {
    if arguments.count == Some(0) {
        return Err(Error::new(
            Kind::BadInput,
            "capture",
            "invalid value '0' for '--count': a count must be at least 1",
        ));
    }
    runtime("capture")?.block_on(capture(arguments, json))
}

async fn capture(arguments: &cli::Capture, json: bool) -> Result<()> {
    // The address first: a file is only touched when there is something to write into it.
    let mut socket = Socket::bind(arguments.listen)?;
    let mut output = Output::open(arguments.write.as_deref(), json, &format!("vxlan {}", socket.local()))?;
    let mut signals = Signals::new()?;
    end_at_the_second_signal()?;
    eprintln!("listening at {}", socket.local());

    let mut counters = Counters::default();
    let stop = receive(arguments, &mut socket, &mut output, &mut signals, &mut counters).await;
    counters.dropped = socket.dropped();
    let stop = stop.and_then(|()| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        output.finish(now, &counters)
    });
    eprintln!("{counters}");
    match stop {
        Ok(()) | Err(Stop::NobodyReads) => Ok(()),
        Err(Stop::Error(error)) => Err(error),
    }
}

async fn receive(
    arguments: &cli::Capture,
    socket: &mut Socket,
    output: &mut Output,
    signals: &mut Signals,
    counters: &mut Counters,
) -> std::result::Result<(), Stop> {
    let failed = |error: io::Error| Stop::Error(Error::failed("receive copies", &error));
    output.start()?;
    loop {
        tokio::select! {
            biased;
            () = signals.any() => return Ok(()),
            ready = socket.readable() => ready.map_err(failed)?,
        }
        for _ in 0..BATCH {
            let Some(datagram) = socket.receive().map_err(failed)? else { break };
            counters.received += 1;
            let Ok(copied) = decapsulate(datagram.payload) else {
                counters.malformed += 1;
                continue;
            };
            if arguments.vni.is_some_and(|vni| vni.get() != copied.vni) {
                counters.other_vni += 1;
                continue;
            }
            output.add(&Record {
                time: datagram.time,
                source: datagram.source,
                vni: copied.vni,
                frame: copied.frame,
            })?;
            counters.shown += 1;
            if arguments.count == Some(counters.shown) {
                return Ok(());
            }
        }
        output.flush()?;
    }
}

/// How long after the first signal another one counts as the second. What starts commands for others often passes on a
/// signal that the command has got already (timeout(1) does): two at once are one.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Ends the process at the second Ctrl-C or SIGTERM: the first isn't seen while a write waits for a reader that has
/// stopped reading.
fn end_at_the_second_signal() -> Result<()> {
    let runtime = runtime("capture")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let wait = move || {
        let waited = runtime.block_on(async {
            signals.any().await;
            tokio::time::sleep(ONE_SIGNAL).await;
            // Anew: the old ones would still tell of what came meanwhile.
            Signals::new()?.any().await;
            Ok::<_, Error>(())
        });
        match waited {
            Ok(()) => eprintln!("error: capture: stopped before all was written"),
            Err(error) => eprintln!("error: {error}"),
        }
        std::process::exit(i32::from(Kind::Failed.exit_status()));
    };
    thread::Builder::new()
        .name("second-signal".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(|error| Error::failed("listen for signals", &error))
}
