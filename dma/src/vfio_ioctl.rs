//! The two VFIO requests that `vfio-ioctls` lacks: mapping memory for reading only, and asking which device addresses
//! the IOMMU has (linux/vfio.h, `VFIO_IOMMU_MAP_DMA` and `VFIO_IOMMU_GET_INFO`).
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_TYPE, vfio_iommu_type1_dma_map,
};

use crate::{Access, SharedMemory};

/// `VFIO_IOMMU_MAP_DMA` of `len` bytes of `memory` from byte `offset`.
///
/// The caller keeps `memory` mapped in this process until the device address is unmapped.
pub(crate) fn map(
    container: BorrowedFd<'_>,
    iova: u64,
    memory: &SharedMemory,
    offset: usize,
    len: usize,
    access: Access,
) -> io::Result<()> {
    let flags = match access {
        Access::ReadOnly => VFIO_DMA_MAP_FLAG_READ,
        Access::ReadWrite => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
    };
    assert!(offset.checked_add(len).is_some_and(|end| end <= memory.len()), "range outside of the memory");
    let request = vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
        flags,
        vaddr: memory.as_ptr() as u64 + offset as u64,
        iova,
        size: len as u64,
    };
    // SAFETY: the request is the structure that this ioctl reads (argsz says its size) and it only reads it. The range
    // lies in `memory` (asserted), which holds no Rust references and whose users all go by raw copies and atomics, so
    // a device that writes it breaks no rule of the language.
    let answer = unsafe { libc::ioctl(container.as_raw_fd(), MAP_DMA, &request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The device address ranges that may be mapped; empty when the kernel does not say (before 5.4).
pub(crate) fn iova_ranges(container: BorrowedFd<'_>) -> io::Result<Vec<RangeInclusive<u64>>> {
    let mut info = vec![0u8; INFO_LEN];
    loop {
        let len = info.len() as u32;
        info[0..4].copy_from_slice(&len.to_ne_bytes());
        // SAFETY: the kernel writes at most `argsz` bytes (the first field, set to the buffer's length just above) at
        // the pointer; vfio_iommu_type1_info has 8-byte alignment, but the kernel copies bytes and does not care.
        let answer = unsafe { libc::ioctl(container.as_raw_fd(), GET_INFO, info.as_mut_ptr()) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        // With too little room the kernel says in argsz how much it wants. Anything absurd is not followed.
        match word(&info, 0) {
            Some(wanted) if wanted > len && wanted <= 1 << 16 => info.resize(wanted as usize, 0),
            _ => return Ok(parse(&info)),
        }
    }
}

/// Finds the range list in the chain of capabilities behind `vfio_iommu_type1_info`.
fn parse(info: &[u8]) -> Vec<RangeInclusive<u64>> {
    let mut ranges = Vec::new();
    if word(info, 4).is_none_or(|flags| flags & VFIO_IOMMU_INFO_CAPS == 0) {
        return ranges;
    }
    let mut at = word(info, CAP_OFFSET_AT).unwrap_or(0) as usize;
    let mut before = 0;
    // Offsets must rise, so the walk ends.
    while at > before {
        let (Some(head), Some(next)) = (word(info, at), word(info, at + 4)) else { break };
        if head & 0xffff == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = word(info, at + 8).unwrap_or(0) as usize;
            let list = info.get(at + 16..).unwrap_or_default();
            ranges.extend(list.chunks_exact(16).take(count).map(|pair| {
                let value = |at: usize| u64::from_ne_bytes(pair[at..at + 8].try_into().expect("8 bytes"));
                value(0)..=value(8)
            }));
        }
        before = at;
        at = next as usize;
    }
    ranges
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// `_IO(VFIO_TYPE, VFIO_BASE + 12)` and `+ 13`: VFIO's numbers carry no size.
const GET_INFO: libc::c_ulong = ((VFIO_TYPE as libc::c_ulong) << 8) | (VFIO_BASE as libc::c_ulong + 12);
const MAP_DMA: libc::c_ulong = ((VFIO_TYPE as libc::c_ulong) << 8) | (VFIO_BASE as libc::c_ulong + 13);
/// argsz, flags, page sizes (8 bytes), then cap_offset.
const CAP_OFFSET_AT: usize = 16;
const INFO_LEN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the kernel lays it out: header, a capability of another kind, the range list.
    fn answer(count: u32, list: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in [0u32, VFIO_IOMMU_INFO_CAPS, 0x1000, 0, 24, 0] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.extend((3u32 | 1 << 16).to_ne_bytes());
        bytes.extend(40u32.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend((VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE | 1 << 16).to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(count.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        for (first, last) in list {
            bytes.extend(first.to_ne_bytes());
            bytes.extend(last.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn ranges_are_found_behind_other_capabilities() {
        let list = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];
        assert_eq!(parse(&answer(2, &list)), [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]);
    }

    #[test]
    fn a_count_that_lies_and_offsets_that_loop_are_survived() {
        assert_eq!(parse(&answer(1000, &[(0, 1)])).len(), 1);
        let mut looped = answer(1, &[(0, 1)]);
        looped[28..32].copy_from_slice(&24u32.to_ne_bytes());
        assert_eq!(parse(&looped), []);
        assert_eq!(parse(&[]), []);
        let mut far = answer(1, &[(0, 1)]);
        far[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&far), []);
    }

    #[test]
    fn request_numbers_are_those_of_linux_vfio_h() {
        assert_eq!((GET_INFO, MAP_DMA), (0x3b70, 0x3b71));
    }
}
