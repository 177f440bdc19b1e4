//! The lab and the tests that need a kernel.
