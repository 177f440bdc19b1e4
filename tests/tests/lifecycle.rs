//! Attach and detach: what outlives the process, what is left behind, what a kill at any moment does.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mirror_tests::trace::Traces;
use mirror_tests::{COLLECTOR, GENERATOR, HOST_SOURCE, IpVersion, Lab, Wanted, hooks};
use mirror_tests::{traffic, vxlan};

fn attach(lab: &Lab, arguments: &str) -> Result<()> {
    lab.mirrorctl(&format!("attach {arguments}"))?.ok();
    Ok(())
}

fn say_something(lab: &Lab) -> Result<()> {
    let (generator, host) = (lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4));
    traffic::exchange_udp(generator, host, 300)?;
    traffic::ping(host, generator.address, 56)
}

#[track_caller]
fn assert_untouched(lab: &Lab, before: &Traces, when: &str) -> Result<()> {
    before.are_all_there_is(&lab.traces()?, when);
    Ok(())
}

#[test]
fn detach_leaves_no_trace() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    for hook in hooks()? {
        for detach in ["detach s0", "detach --all"] {
            attach(&lab, &format!("s0 --target {} --hook {hook}", COLLECTOR.v4))?;
            let during = lab.traces()?;
            assert_ne!(before, during);
            let tcx = if hook == "tcx" { (1, 1) } else { (0, 0) };
            assert_eq!(lab.tcx_programs("s0")?, tcx, "--hook {hook} should use that hook");
            let filters = during.about("tc filter show dev s0");
            assert_eq!(filters.is_empty(), hook == "tcx", "--hook {hook} should use that hook: {filters}");
            lab.mirrorctl(detach)?.ok();
            assert_untouched(&lab, &before, &format!("after `{detach}` with hook {hook}"))?;
            lab.record(|| say_something(&lab))?.nothing_is_copied();
        }
    }
    Ok(())
}

#[test]
fn detach_of_one_source_leaves_the_other_working() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        let before = lab.traces()?;
        attach(&lab, &format!("u0 --target {} --vni 1 --hook {hook}", COLLECTOR.v4))?;
        attach(&lab, &format!("s0 --target {} --vni 2 --hook {hook}", COLLECTOR.v4))?;
        lab.mirrorctl("detach u0")?.ok();
        lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(2));
        lab.mirrorctl("detach u0")?.fails(3, &["u0"]);
        lab.mirrorctl("detach s0")?.ok();
        assert_untouched(&lab, &before, "after both were detached")?;
    }
    Ok(())
}

#[test]
fn a_clsact_qdisc_that_was_there_stays_with_its_filters() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.tc("qdisc add dev s0 clsact")?;
    lab.host.tc("filter add dev s0 ingress pref 7 protocol ip u32 match ip dport 9 0xffff flowid 1:1")?;
    lab.host.tc("filter add dev s0 egress pref 49152 protocol ip u32 match ip dport 9 0xffff flowid 1:2")?;
    let before = lab.traces()?;
    for hook in hooks()? {
        for detach in ["detach s0", "detach --all"] {
            attach(&lab, &format!("s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4))?;
            lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(42));
            lab.mirrorctl(detach)?.ok();
            assert_untouched(&lab, &before, &format!("after `{detach}` with hook {hook}"))?;
        }
    }
    Ok(())
}

#[test]
fn filters_of_others_do_not_hide_packets() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.host.tc("qdisc add dev s0 clsact")?;
        // These match everything, and end the classification of clsact.
        lab.host.tc("filter add dev s0 ingress pref 7 protocol all u32 match u32 0 0 flowid 1:1")?;
        lab.host.tc("filter add dev s0 egress pref 49152 protocol all u32 match u32 0 0 flowid 1:2")?;
        attach(&lab, &format!("s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4))?;
        lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(42));
    }
    Ok(())
}

#[test]
fn a_filter_added_while_mirroring_survives_detach() -> Result<()> {
    let lab = Lab::new()?;
    attach(&lab, &format!("s0 --target {} --hook tc", COLLECTOR.v4))?;
    lab.host.tc("filter add dev s0 ingress pref 7 protocol ip u32 match ip dport 9 0xffff flowid 1:1")?;
    lab.mirrorctl("detach s0")?.ok();
    let left = lab.host.tc("filter show dev s0 ingress")?;
    assert!(left.contains("u32"), "somebody else's filter should still be there: {left:?}");
    assert!(!left.contains("bpf"), "none of ours should be: {left:?}");
    Ok(())
}

#[test]
fn attach_twice_is_a_conflict_and_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    attach(&lab, &format!("s0 --target {} --vni 42", COLLECTOR.v4))?;
    let before = lab.traces()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 43", COLLECTOR.v6))?.fails(4, &["s0", "hint: "]);
    assert_untouched(&lab, &before, "after the second attach")?;
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(42));
    Ok(())
}

#[test]
fn detach_of_what_is_not_attached_is_not_found() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    lab.mirrorctl("detach s0")?.fails(3, &["s0"]);
    lab.mirrorctl("detach nope0")?.fails(3, &["nope0"]);
    lab.mirrorctl("detach --all")?.ok();
    assert_untouched(&lab, &before, "after detaching nothing")
}

#[test]
fn two_attach_at_once_both_work() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    for hook in hooks()?.into_iter().cycle().take(3) {
        let starts = [("s0", 1), ("u0", 2)].map(|(interface, vni)| {
            let command = format!("attach {interface} --target {} --vni {vni} --hook {hook}", COLLECTOR.v4);
            lab.start_mirrorctl(&lab.host, &command)
        });
        for started in starts {
            started?.output()?.ok();
        }
        let status = lab.status()?;
        assert_eq!(status["sources"].as_array().map(Vec::len), Some(2), "{status}");
        lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(1));
        let ends = ["s0", "u0"].map(|interface| lab.start_mirrorctl(&lab.host, &format!("detach {interface}")));
        for ended in ends {
            ended?.output()?.ok();
        }
        assert_untouched(&lab, &before, "after both were detached")?;
    }
    Ok(())
}

#[test]
fn two_instances_on_one_host_do_not_meet() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    attach(&lab, &format!("s0 --target {} --vni 1 --instance a", COLLECTOR.v4))?;
    attach(&lab, &format!("s0 --target {} --vni 2 --instance b", COLLECTOR.v4))?;
    let recording = lab.record(|| lab.small_talk())?;
    recording.each_frame_has_one_copy(Wanted::vni(1));
    recording.each_frame_has_one_copy(Wanted::vni(2));
    lab.mirrorctl("detach s0")?.fails(3, &["s0"]);
    lab.mirrorctl("detach --all")?.ok();
    lab.mirrorctl("detach --all --instance a")?.ok();
    let recording = lab.record(|| lab.small_talk())?;
    recording.each_frame_has_one_copy(Wanted::vni(2));
    assert!(recording.copies.iter().all(|copy| copy.vni == 2), "instance a is detached");
    lab.mirrorctl("detach s0 --instance b")?.ok();
    assert_untouched(&lab, &before, "after both instances were detached")
}

#[test]
fn the_last_instance_in_a_clsact_qdisc_removes_it() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    for (first, last) in [("a", "b"), ("b", "a")] {
        for detach in ["detach s0", "detach --all"] {
            attach(&lab, &format!("s0 --target {} --vni 1 --hook tc --instance a", COLLECTOR.v4))?;
            attach(&lab, &format!("s0 --target {} --vni 2 --hook tc --instance b", COLLECTOR.v4))?;
            lab.mirrorctl(&format!("{detach} --instance {first}"))?.ok();
            let recording = lab.record(|| lab.small_talk())?;
            recording.each_frame_has_one_copy(Wanted::vni(if last == "a" { 1 } else { 2 }));
            lab.mirrorctl(&format!("{detach} --instance {last}"))?.ok();
            assert_untouched(&lab, &before, &format!("after `{detach}` of {first}, then of {last}"))?;
        }
    }
    // A qdisc of somebody else stays, whoever attaches first.
    lab.host.tc("qdisc add dev s0 clsact")?;
    let with_qdisc = lab.traces()?;
    attach(&lab, &format!("s0 --target {} --vni 1 --hook tc --instance a", COLLECTOR.v4))?;
    attach(&lab, &format!("s0 --target {} --vni 2 --hook tc --instance b", COLLECTOR.v4))?;
    lab.mirrorctl("detach s0 --instance a")?.ok();
    lab.mirrorctl("detach s0 --instance b")?.ok();
    assert_untouched(&lab, &with_qdisc, "after both were detached from a qdisc of somebody else")
}

#[test]
fn a_clsact_qdisc_of_a_killed_instance_goes_with_the_last() -> Result<()> {
    const MOMENTS: u32 = 8;
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let command = |instance: &str| format!("attach s0 --target {} --hook tc --instance {instance}", COLLECTOR.v4);
    let start = Instant::now();
    lab.mirrorctl(&command("a"))?.ok();
    let attach_time = start.elapsed();
    lab.mirrorctl("detach s0 --instance a")?.ok();
    for moment in 0..MOMENTS {
        kill_after(&lab, &command("a"), attach_time * moment / MOMENTS)?;
        lab.mirrorctl(&command("b"))?.ok();
        lab.mirrorctl("detach --all --instance a")?.ok();
        lab.mirrorctl("detach s0 --instance b")?.ok();
        assert_untouched(&lab, &before, &format!("after instance a was killed at moment {moment}"))?;
    }
    Ok(())
}

#[test]
fn instances_serve_one_network_namespace_each() -> Result<()> {
    let lab = Lab::new()?;
    attach(&lab, &format!("s0 --target {} --vni 1 --instance a", COLLECTOR.v4))?;
    let in_generator = |arguments: &str| lab.start_mirrorctl(&lab.generator, arguments)?.output();
    let target = HOST_SOURCE.v4;
    in_generator(&format!("attach g0 --target {target} --vni 2 --instance a"))?.fails(4, &["namespace", "hint: "]);
    in_generator(&format!("attach g0 --target {target}:4790 --vni 2 --instance b"))?.ok();
    let recording = lab.record_at(&[HOST_SOURCE], vxlan::PORT, || say_something(&lab))?;
    // What g0 sends as copies passes s0, and is ordinary traffic there.
    recording.each_frame_has_one_copy(Wanted::vni(1));
    in_generator("detach --all --instance a")?.fails(4, &["namespace"]);
    in_generator("detach g0 --instance b")?.ok();
    lab.mirrorctl("detach s0 --instance a")?.ok();
    Ok(())
}

#[test]
fn an_interface_that_went_away_can_be_detached() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.host.ip("link add x0 type veth peer name x1")?;
        lab.host.ip("link set x0 up")?;
        let empty = lab.traces()?;
        attach(&lab, &format!("x0 --target {} --hook {hook}", COLLECTOR.v4))?;
        lab.host.ip("link del x0")?;
        lab.mirrorctl("status")?.ok();
        lab.mirrorctl("stats")?.ok();
        lab.mirrorctl("detach x0")?.ok();
        let after = lab.traces()?;
        assert_eq!(after.about("pins"), empty.about("pins"));
        assert_eq!(after.about("files"), empty.about("files"));
        assert!(!after.about("ip -details -oneline link show").contains("mirror"));
    }
    Ok(())
}

#[test]
fn kill_9_with_tcx_leaves_traffic_working_and_detach_all_cleans_up() -> Result<()> {
    if hooks()?.contains(&"tcx") { kill_9_at_any_moment("tcx") } else { Ok(()) }
}

#[test]
fn kill_9_with_tc_leaves_traffic_working_and_detach_all_cleans_up() -> Result<()> {
    kill_9_at_any_moment("tc")
}

fn kill_9_at_any_moment(hook: &str) -> Result<()> {
    const MOMENTS: u32 = 16;
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let attach_command = format!("attach s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4);
    let start = Instant::now();
    lab.mirrorctl(&attach_command)?.ok();
    let attach_time = start.elapsed();
    let start = Instant::now();
    lab.mirrorctl("detach s0")?.ok();
    let detach_time = start.elapsed();

    let recording = lab.record(|| {
        for moment in 0..MOMENTS {
            // The delay is what is tried out, not a wait for anything.
            kill_after(&lab, &attach_command, attach_time * moment / (MOMENTS - 2))?;
            say_something(&lab)?;
            lab.mirrorctl("detach --all")?.ok();
            assert_untouched(&lab, &before, &format!("after attach was killed at moment {moment}"))?;

            lab.mirrorctl(&attach_command)?.ok();
            kill_after(&lab, "detach s0", detach_time * moment / (MOMENTS - 2))?;
            say_something(&lab)?;
            lab.mirrorctl("detach --all")?.ok();
            assert_untouched(&lab, &before, &format!("after detach was killed at moment {moment}"))?;
        }
        Ok(())
    })?;
    // Every copy was well-formed (the recording saw to it), and nothing else ever left by the uplink.
    recording.no_strays();
    assert!(!recording.copies.is_empty(), "some moments should have been late enough for copies");
    Ok(())
}

fn kill_after(lab: &Lab, command: &str, delay: Duration) -> Result<()> {
    let running = lab.start_mirrorctl(&lab.host, command)?;
    thread::sleep(delay);
    let output = running.kill()?;
    assert!(output.was_killed() || output.succeeded(), "{output}");
    Ok(())
}

#[test]
fn attach_works_again_after_a_kill() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let command = format!("attach s0 --target {} --vni 42", COLLECTOR.v4);
    let start = Instant::now();
    lab.mirrorctl(&command)?.ok();
    let attach_time = start.elapsed();
    lab.mirrorctl("detach s0")?.ok();
    for moment in 0..8 {
        kill_after(&lab, &command, attach_time * moment / 8)?;
        let again = lab.mirrorctl(&command)?;
        // It had finished before it was killed.
        if !again.succeeded() {
            again.fails(4, &["s0"]);
        }
        lab.record(|| say_something(&lab))?.each_frame_has_one_copy(Wanted::vni(42));
        lab.mirrorctl("detach s0")?.ok();
        assert_untouched(&lab, &before, &format!("after moment {moment}"))?;
    }
    Ok(())
}

#[test]
fn a_change_works_again_after_detach_all_was_killed() -> Result<()> {
    const MOMENTS: u32 = 12;
    for hook in hooks()? {
        let lab = Lab::new()?;
        let attach_again = format!("attach s0 --hook {hook}");
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4))?.ok();
        // Not of `attach`: it stays when the source is detached.
        let session = lab.mirrorctl("session show s0-1 --json")?.json();
        lab.mirrorctl(&format!("tag set {} made-by=me", session["id"].as_str().expect("an id")))?.ok();
        lab.mirrorctl("detach --all")?.ok();
        lab.mirrorctl(&attach_again)?.ok();
        let start = Instant::now();
        lab.mirrorctl("detach --all")?.ok();
        let detach_time = start.elapsed();
        for moment in 0..MOMENTS {
            lab.mirrorctl(&attach_again)?.ok();
            kill_after(&lab, "detach --all", detach_time * moment / MOMENTS)?;
            lab.mirrorctl(&format!("session modify s0-1 --packet-length {}", 100 + moment))?.ok();
            lab.mirrorctl("detach --all")?.ok();
        }
    }
    Ok(())
}

#[test]
fn a_tap_that_somebody_deleted_is_named_and_nothing_more_is_attached() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    attach(&lab, &format!("s0 --target {}", COLLECTOR.v4))?;
    let host = lab.namespace_of(HOST_SOURCE);
    host.ip("link del mctap-default")?;
    assert_eq!(lab.status()?["sources"][0]["state"], "tap gone");
    lab.mirrorctl(&format!("attach u0 --target {}", COLLECTOR.v4))?.fails(4, &["tap", "detach --all"]);
    assert_eq!(lab.status()?["sources"].as_array().map(Vec::len), Some(1), "u0 was not to be attached");
    lab.mirrorctl("detach --all")?.ok();
    assert_untouched(&lab, &before, "after `detach --all`")?;
    attach(&lab, &format!("s0 --target {} --vni 3", COLLECTOR.v4))?;
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(3));
    Ok(())
}

#[test]
fn detach_all_removes_what_a_killed_command_was_writing() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let directory = lab.state_directory().join("default");
    fs::create_dir_all(&directory).context("create a state directory")?;
    fs::write(directory.join("definitions.toml.new"), "[[targ").context("write half a file")?;
    lab.mirrorctl("detach --all")?.ok();
    before.are_all_there_is(&lab.traces()?, "after a write that was killed");
    Ok(())
}
