//! Bad input and missing rights: the message, the exit status, and that nothing changed.

use anyhow::Result;
use mirror_tests::{COLLECTOR, GENERATOR, Lab, hooks};

#[test]
fn what_cannot_be_meant_is_refused_with_field_value_and_range() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let target = COLLECTOR.v4;
    let cases: &[(i32, String, &[&str])] = &[
        (3, format!("attach nope0 --target {target}"), &["nope0"]),
        (2, "attach s0".into(), &["--target"]),
        (2, "attach s0 --target collector".into(), &["--target", "collector", "IPv4 or IPv6 address"]),
        (2, "attach s0 --target 10.2.0".into(), &["--target", "10.2.0"]),
        (2, "attach s0 --target 10.2.0.2:0".into(), &["--target", "1 to 65535"]),
        (2, "attach s0 --target 10.2.0.2:65536".into(), &["--target", "65536"]),
        (2, "attach s0 --target 0.0.0.0".into(), &["target", "0.0.0.0"]),
        (2, "attach s0 --target 224.0.0.1".into(), &["target", "224.0.0.1"]),
        (2, "attach s0 --target 255.255.255.255".into(), &["target", "255.255.255.255"]),
        (2, "attach s0 --target ff02::1".into(), &["target", "ff02::1"]),
        (2, format!("attach s0 --target {target} --vni 16777216"), &["--vni", "16777216", "0 to 16777215"]),
        (2, format!("attach s0 --target {target} --vni -1"), &["--vni", "-1"]),
        (2, format!("attach s0 --target {target} --vni x"), &["--vni", "x", "0 to 16777215"]),
        (2, format!("attach s0 --target {target} --packet-length 0"), &["--packet-length", "0", "1 to 8500"]),
        (2, format!("attach s0 --target {target} --packet-length 8501"), &["--packet-length", "8501", "1 to 8500"]),
        (2, format!("attach s0 --target {target} --session-number 0"), &["--session-number", "0", "1 to 32766"]),
        (
            2,
            format!("attach s0 --target {target} --session-number 32767"),
            &["--session-number", "32767", "1 to 32766"],
        ),
        (2, format!("attach s0 --target {target} --hook xdp"), &["--hook", "xdp", "tcx", "tc"]),
        (2, format!("attach s0 --target {target} --instance a/b"), &["instance", "a/b"]),
        (2, format!("attach a/b --target {target}"), &["a/b"]),
        (2, format!("attach an-interface-name-too-long --target {target}"), &["an-interface-name-too-long", "15"]),
        (2, "detach".into(), &["--all"]),
        (2, "detach s0 --all".into(), &["--all"]),
        (2, "atach s0".into(), &["atach", "attach"]),
        (2, "".into(), &[]),
        (3, "detach s0".into(), &["s0"]),
    ];
    for (exit_status, command, words) in cases {
        lab.mirrorctl(command)?.fails(*exit_status, words);
    }
    before.are_all_there_is(&lab.traces()?, "after all those refusals");
    Ok(())
}

#[test]
fn without_root_nothing_is_permitted() -> Result<()> {
    let lab = Lab::new()?;
    let target = COLLECTOR.v4;
    let nothing = lab.traces()?;
    lab.mirrorctl_as_nobody(&format!("attach s0 --target {target}"))?.fails(5, &["s0", "root"]);
    nothing.are_all_there_is(&lab.traces()?, "after nobody's attach");

    lab.mirrorctl(&format!("attach s0 --target {target}"))?.ok();
    let attached = lab.traces()?;
    for command in ["detach s0", "detach --all", "status", "stats"] {
        lab.mirrorctl_as_nobody(command)?.fails(5, &["root"]);
    }
    attached.are_all_there_is(&lab.traces()?, "after nobody's detach");
    // Bad input is bad input for anybody.
    lab.mirrorctl_as_nobody("attach s0 --target nowhere")?.fails(2, &["nowhere"]);
    assert!(lab.mirrorctl_as_nobody("--version")?.succeeded());
    Ok(())
}

#[test]
fn without_bpffs_attach_says_how_to_mount_it() -> Result<()> {
    let lab = Lab::options().without_bpffs().start()?;
    let before = lab.traces()?;
    let attach = format!("attach s0 --target {}", COLLECTOR.v4);
    lab.mirrorctl(&attach)?.fails(1, &["bpffs", "/sys/fs/bpf", "hint: ", "mount -t bpf bpf /sys/fs/bpf"]);
    before.are_all_there_is(&lab.traces()?, "after attach without bpffs");
    // Where nothing can be pinned nothing is attached.
    lab.mirrorctl("detach --all")?.ok();
    lab.mirrorctl("detach s0")?.fails(3, &["s0"]);
    Ok(())
}

#[test]
fn an_ingress_qdisc_in_the_way_is_a_conflict() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.tc("qdisc add dev s0 ingress")?;
    let before = lab.traces()?;
    lab.mirrorctl(&format!("attach s0 --target {} --hook tc", COLLECTOR.v4))?.fails(4, &["s0", "ingress", "hint: "]);
    before.are_all_there_is(&lab.traces()?, "after attach beside an ingress qdisc");
    let by_tcx = lab.mirrorctl(&format!("attach s0 --target {} --hook tcx", COLLECTOR.v4))?;
    if hooks()?.contains(&"tcx") {
        // TCX has no such trouble.
        by_tcx.ok();
        lab.mirrorctl("detach s0")?.ok();
    } else {
        by_tcx.fails(2, &["TCX", "Linux 6.6"]);
    }
    before.are_all_there_is(&lab.traces()?, "after TCX was asked for");
    Ok(())
}

#[test]
fn bad_input_beside_a_working_session_leaves_it_alone() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let before = lab.traces()?;
    lab.mirrorctl(&format!("attach nope0 --target {}", COLLECTOR.v4))?.fails(3, &["nope0"]);
    lab.mirrorctl(&format!("attach u0 --target {}", GENERATOR.v4.octets()[0]))?.fails(2, &["--target"]);
    before.are_all_there_is(&lab.traces()?, "after two refusals");
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(mirror_tests::Wanted::vni(42));
    Ok(())
}
