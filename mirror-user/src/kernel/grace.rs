//! Waits until no program runs any more that was attached before.

use std::thread;
use std::time::Duration;

/// Command of membarrier(2), as numbered in include/uapi/linux/membarrier.h: waits for an RCU grace period, and programs
/// at TC hooks run inside RCU read-side sections.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// Where the kernel has no such command (CONFIG_MEMBARRIER off, or CPUs in nohz_full mode): a program runs for
/// microseconds.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

/// Waits until every run of a program that had begun has ended.
pub fn wait_for_runs() {
    // SAFETY: takes no pointers.
    let code = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if code < 0 {
        thread::sleep(LONG_ENOUGH);
    }
}
