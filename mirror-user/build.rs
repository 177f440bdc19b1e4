//! Builds the kernel programs with the eBPF toolchain that `cargo xtask setup` found or installed.
fn main() -> anyhow::Result<()> {
    aya_build::build_ebpf(
        [aya_build::Package { name: "mirror-ebpf", root_dir: "../mirror-ebpf", ..Default::default() }],
        aya_build::Toolchain::default(),
    )
}
