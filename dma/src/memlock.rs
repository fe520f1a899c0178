//! How much memory a process may lock: what a device may reach is pinned, and that counts.

use rustix::process::{Resource, getrlimit};

/// What to say when the kernel would not pin `len` bytes more.
pub(crate) fn hint(len: usize) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text(len as u64, getrlimit(Resource::Memlock).current, locked(&status))
}

/// `limit` in bytes; `None` is none.
fn text(len: u64, limit: Option<u64>, locked: u64) -> String {
    let Some(limit) = limit else {
        return "; the locked-memory limit is not in the way, so memory is short: use a smaller cache".into();
    };
    let kib = |bytes: u64| bytes.div_ceil(1024);
    format!(
        "; this process may lock {} KiB (ulimit -l), {} are locked and {} more are wanted: raise the limit of this shell (sudo \
         prlimit --memlock=unlimited --pid $$), of the user (USER - memlock unlimited in /etc/security/limits.conf, then log in \
         again) or of the service (LimitMEMLOCK=infinity), or use a smaller cache",
        kib(limit),
        kib(locked),
        kib(len)
    )
}

/// `VmLck` of `/proc/PID/status`, bytes.
fn locked(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_named_with_its_value_and_what_to_type() {
        let said = text(1 << 20, Some(8 << 20), 7_500_000);
        assert!(said.contains("8192 KiB") && said.contains("7325 are locked") && said.contains("1024 more"), "{said}");
        assert!(said.contains("prlimit --memlock=") && said.contains("LimitMEMLOCK="), "{said}");
        assert!(text(1, None, 0).contains("not in the way"));
    }

    #[test]
    fn what_is_locked_is_read_from_the_kernels_lines() {
        assert_eq!(locked("Name:\tx\nVmPin:\t  9 kB\nVmLck:\t    64 kB\n"), 65_536);
        assert_eq!((locked(""), locked("VmLck: many kB"), locked("VmLck: 18446744073709551615 kB")), (0, 0, u64::MAX));
    }
}
