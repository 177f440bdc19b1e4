//! Medians, spreads, bars.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// What was measured several times.
#[derive(Clone, Debug)]
pub struct Figure {
    sorted: Vec<f64>,
}

impl Figure {
    /// Of `samples`, at least one.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self { sorted: samples }
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(2)
    }

    /// The lowest and the highest of the middle half.
    pub fn quartiles(&self) -> (f64, f64) {
        (self.quantile(1), self.quantile(3))
    }

    fn quantile(&self, quarters: usize) -> f64 {
        self.sorted[(self.sorted.len() - 1) * quarters / 4]
    }

    /// Criterion's way to write it: lower quartile, median, upper quartile.
    pub fn text(&self, unit: &str) -> String {
        let (low, high) = self.quartiles();
        format!("[{low:.1} {unit} {:.1} {unit} {high:.1} {unit}]", self.median())
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let (low, high) = self.quartiles();
        json!({ "median": self.median(), "lower_quartile": low, "upper_quartile": high, "samples": self.sorted.len() })
    }
}

/// Runs `work`: its value, and the time that the CPU spent on this thread. What others do on the host meanwhile doesn't
/// count.
pub fn cpu_time<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let now = || -> Result<Duration> {
        Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?.into())
    };
    let start = now()?;
    let value = work()?;
    Ok((value, now()? - start))
}

/// Nanoseconds for each of `count`.
pub fn nanoseconds(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(count)
}

/// Milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What must hold.
#[derive(Debug, Default)]
pub struct Bars(Vec<Bar>);

#[derive(Debug)]
struct Bar {
    what: String,
    figure: f64,
    most: f64,
    unit: &'static str,
}

impl Bars {
    /// `what` is `figure`, and may be `most`.
    pub fn check(&mut self, what: impl Into<String>, figure: f64, most: f64, unit: &'static str) {
        self.0.push(Bar { what: what.into(), figure, most, unit });
    }

    /// Whether all are met.
    pub fn met(&self) -> bool {
        self.0.iter().all(Bar::met)
    }

    /// One line for each.
    pub fn print(&self) {
        for bar in &self.0 {
            let verdict = if bar.met() { "met   " } else { "MISSED" };
            println!(
                "  {verdict} {:<60} {:>8.2} {} (at most {} {})",
                bar.what, bar.figure, bar.unit, bar.most, bar.unit
            );
        }
    }

    /// For machines.
    pub fn json(&self) -> Value {
        self.0
            .iter()
            .map(|bar| json!({ "bar": bar.what, "figure": bar.figure, "most": bar.most, "unit": bar.unit, "met": bar.met() }))
            .collect()
    }
}

impl Bar {
    fn met(&self) -> bool {
        self.figure <= self.most
    }
}
