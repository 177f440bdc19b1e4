//! The parsers of what people and programs write, fed what nobody means: the entry points of the fuzz targets, on every
//! compiler and in every test run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use mirror_tests::properties::{self, Property, mutated};
use mirror_tests::random::Random;

const INPUTS: usize = 4_000;
/// One seed that is the same in every run, for what was found once.
const SEED: u64 = 1;

fn property(name: &str) -> Property {
    properties::ALL.into_iter().find(|property| property.name == name).expect("a property of this name")
}

fn holds_for_mutated_inputs(name: &str) {
    let Property { check, seeds, .. } = property(name);
    let seeds = seeds();
    for seed in &seeds {
        check(seed);
    }
    let new = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    for start in [SEED, new] {
        let mut random = Random::new(start);
        for number in 0..INPUTS {
            let input = mutated(&mut random, &seeds);
            let result = catch_unwind(AssertUnwindSafe(|| check(&input)));
            assert!(
                result.is_ok(),
                "{name} doesn't hold for input {number} of seed {start}: {:?}",
                input.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn rule_text_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("rule_text");
}

#[test]
fn flow_text_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("flow_text");
}

#[test]
fn packet_text_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("packet_text");
}

#[test]
fn definitions_file_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("definitions_file");
}

#[test]
fn capture_file_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("capture_file");
}

#[test]
fn resolv_conf_holds_for_mutated_inputs() {
    holds_for_mutated_inputs("resolv_conf");
}
