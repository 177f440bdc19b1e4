//! The kernel's verdicts against the oracle's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mirror_common::table::Verdict as Answer;
use mirror_tests::Lab;
use mirror_tests::oracle::{self, Session, Verdict};
use mirror_tests::policies;
use mirror_tests::random::Random;
use mirror_user::compile::{self, Policy};
use mirror_user::kernel::Judge;

/// How many policies and how many frames for each: `MIRROR_VERDICTS=policies,frames` asks for more.
fn amount() -> (usize, usize) {
    let wanted = std::env::var("MIRROR_VERDICTS").ok();
    let parse = |text: &str| {
        let (policies, frames) = text.split_once(',')?;
        Some((policies.parse().ok()?, frames.parse().ok()?))
    };
    wanted.as_deref().and_then(parse).unwrap_or((200, 5_000))
}

/// `MIRROR_SEED`, else one that is new each time.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    std::env::var("MIRROR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now)
}

fn compile(sessions: &[Session]) -> Result<Policy> {
    let sorted: Vec<Vec<_>> = sessions
        .iter()
        .map(|session| {
            let mut rules: Vec<_> = session.rules.iter().collect();
            rules.sort_by_key(|rule| rule.number);
            rules
        })
        .collect();
    let sessions: Vec<_> = sessions
        .iter()
        .zip(sorted)
        .enumerate()
        .map(|(slot, (session, rules))| compile::Session {
            slot: slot as u32,
            rules,
            dns: &session.dns,
            mirror_non_ip: session.mirror_non_ip,
        })
        .collect();
    Ok(compile::compile(&sessions)?)
}

/// The kernel's answer in the oracle's words.
fn translate(answer: Answer, policy: &Policy) -> Verdict {
    match answer {
        Answer::None => Verdict::None,
        Answer::Rejected(place) => {
            let place = policy.places[place as usize];
            let rule = place.rule.expect("a network service rejects nothing");
            Verdict::Rejected(place.session, rule)
        }
        // Slots are indexes here (`compile` above).
        Answer::NonIp(slot) => Verdict::NonIp(slot as usize),
        Answer::Rule(place) => {
            let place = policy.places[place as usize];
            place.rule.map_or(Verdict::Service(place.session), |rule| Verdict::Rule(place.session, rule))
        }
    }
}

/// How many differences are described; the others are counted.
const DESCRIBED: usize = 5;

#[test]
fn the_kernel_judges_as_the_oracle_does() -> Result<()> {
    let lab = Lab::new()?;
    let pin = lab.bpffs().context("the lab has a bpffs")?.join("judge");
    let (policies, frames) = amount();
    let seed = seed();
    let started = Instant::now();
    let mut verdicts = [0usize; 5];
    let mut differences = 0;
    for number in 0..policies {
        let seed = seed.wrapping_add(number as u64);
        let mut random = Random::new(seed);
        // Most policies are small and dense; some have rules by the hundreds, some sessions by the dozen.
        let (most_sessions, most_rules) = *random.pick(&[(1, 10), (4, 30), (4, 30), (40, 12), (3, 700)]);
        let sessions = policies::policy(&mut random, most_sessions, most_rules);
        let policy = compile(&sessions)?;
        let mut judge = Judge::load(&policy, &pin).with_context(|| format!("MIRROR_SEED={seed}: load the policy"))?;
        for _ in 0..frames {
            let frame = policies::frame(&mut random, &sessions);
            let expected = oracle::judge(&sessions, &frame);
            let answer = judge.verdict(&frame).with_context(|| format!("MIRROR_SEED={seed}: frame {frame:02x?}"))?;
            let answer = translate(answer, &policy);
            if answer != expected {
                differences += 1;
                if differences <= DESCRIBED {
                    println!(
                        "MIRROR_SEED={seed} MIRROR_VERDICTS=1,{frames}: the kernel says {answer:?}, the oracle {expected:?}, of {:?}\nframe {frame:02x?}",
                        oracle::dissect(&frame),
                    );
                }
            }
            verdicts[match expected {
                Verdict::None => 0,
                Verdict::Rule(..) => 1,
                Verdict::Service(_) => 2,
                Verdict::NonIp(_) => 3,
                Verdict::Rejected(..) => 4,
            }] += 1;
        }
    }
    let pairs = policies * frames;
    let [none, rule, service, non_ip, rejected] = verdicts;
    println!(
        "{policies} policies, {frames} frames each: {rule} by a rule, {service} DNS, {non_ip} not IP, {rejected} rejected, {none} by nobody"
    );
    println!("seed {seed}: {pairs} pairs, {differences} differences, {:.1} s", started.elapsed().as_secs_f32());
    ensure!(differences == 0, "seed {seed}: {differences} of {pairs} verdicts differ, see above");
    ensure!(
        pairs < 100_000 || verdicts.iter().all(|count| *count > pairs / 1_000),
        "seed {seed}: the frames are one-sided: {verdicts:?}"
    );
    Ok(())
}
