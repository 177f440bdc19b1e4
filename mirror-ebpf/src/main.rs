//! The kernel programs of mirrorctl.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::{macros::classifier, programs::TcContext};

/// Stub while the skeleton stands.
#[classifier]
pub fn mirror_ingress(_ctx: TcContext) -> i32 {
    -1
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
