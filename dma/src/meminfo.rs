//! What `/proc/meminfo` says of huge pages.

/// Default huge page size, bytes; `None` where the kernel has no huge pages.
pub(crate) fn huge_page_size() -> Option<usize> {
    page_size(&read())
}

/// Bytes of huge pages that nobody has, nor has reserved.
pub(crate) fn free_huge_bytes() -> usize {
    free_bytes(&read()).unwrap_or(0)
}

fn read() -> String {
    std::fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

fn page_size(meminfo: &str) -> Option<usize> {
    field(meminfo, "Hugepagesize:")?.checked_mul(1024).filter(|&size| size > 0)
}

fn free_bytes(meminfo: &str) -> Option<usize> {
    let free = field(meminfo, "HugePages_Free:")?.saturating_sub(field(meminfo, "HugePages_Rsvd:")?);
    free.checked_mul(page_size(meminfo)?)
}

/// A field's number, in the unit of its line: kB or pages.
fn field(meminfo: &str, name: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "HugePages_Total:       9\nHugePages_Free:        7\nHugePages_Rsvd:        2\nHugepagesize:       2048 kB\n";
        assert_eq!((page_size(text), free_bytes(text)), (Some(2 << 20), Some(10 << 20)));
        assert_eq!((page_size(""), free_bytes("Hugepagesize: 0 kB")), (None, None));
        assert_eq!(page_size("Hugepagesize: many kB"), None);
    }
}
