//! Asks the kernel for verdicts: runs the classifier on frames that never were on a wire (BPF_PROG_TEST_RUN).

use std::path::Path;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mirror_common::table::Verdict;

use super::{Constants, EXPLAIN_PROGRAM, TABLE, create_directory, failed, load, program, remove_pins, table};
use crate::compile::Policy;
use crate::error::{Error, Kind, Result};

/// The classifier of a policy, loaded but not attached.
#[derive(Debug)]
pub struct Judge {
    programs: Ebpf,
}

impl Judge {
    /// Loads the classifier for `policy`. `directory`, in bpffs, holds a pin while it is loaded.
    pub fn load(policy: &Policy, directory: &Path) -> Result<Self> {
        remove_pins(directory)?;
        create_directory(directory)?;
        let pin = directory.join(TABLE);
        table::create(&policy.table, &pin)?;
        let constants = Constants { tap_ifindex: 0, fib_tells_source: false };
        let mut programs = load(constants, policy.shape, policy.places.len(), &[(TABLE, pin)])?;
        program(&mut programs, EXPLAIN_PROGRAM)?;
        remove_pins(directory)?;
        Ok(Self { programs })
    }

    /// The verdict on a frame, which begins with its Ethernet header.
    pub fn verdict(&mut self, frame: &[u8]) -> Result<Verdict> {
        let what = "ask the kernel for a verdict";
        let program: &mut SchedClassifier = self
            .programs
            .program_mut(EXPLAIN_PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::new(Kind::Failed, what, "the program is gone"))?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let result = program.test_run(options).map_err(|error| failed(what)(&error))?;
        Verdict::from_code(result.return_value)
            .ok_or_else(|| Error::new(Kind::Failed, what, format_args!("unknown answer {}", result.return_value)))
    }
}
