//! Memory on the node that a device is on: a card reads a ring or a page there without the link between processors.
//!
//! Where a machine has one node, or does not say where a device is, nothing is done. What is done is a preference: when the
//! node has no memory left the kernel takes another's.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::path::Path;

use crate::{PciAddress, SharedMemory, sysfs};

/// A part of the machine with memory and processors of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node(u32);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory node {}", self.0)
    }
}

impl Node {
    /// The node of a PCI function, if that makes a difference: there are several with memory, and the kernel knows which of them
    /// the function is on.
    pub fn of(address: PciAddress) -> Option<Self> {
        Self::found(Path::new("/sys"), address)
    }

    fn found(sys: &Path, address: PciAddress) -> Option<Self> {
        let nodes = sysfs::nodes_with_memory(&sys.join("devices/system/node"));
        let node = sysfs::node_of(&sys.join("bus/pci/devices"), address)?;
        (nodes.len() > 1 && nodes.contains(&node) && node < MOST_NODES).then_some(Self(node))
    }
}

impl SharedMemory {
    /// Has the kernel take the pages from `node`, those that were not touched yet. Whoever touches them, and through whatever
    /// mapping: the preference is the memory's, not the address's or the thread's.
    ///
    /// # Errors
    /// What the kernel says: `ENOSYS` without nodes, `EINVAL` for a node without memory, `EPERM` in some containers. The memory
    /// is as good as before then.
    pub fn prefer(&self, node: Node) -> io::Result<()> {
        let mut mask = Mask::default();
        let Some(word) = mask.get_mut(node.0 as usize / BITS) else { return Err(io::ErrorKind::InvalidInput.into()) };
        *word |= 1 << (node.0 as usize % BITS);
        // SAFETY: mbind(2) reads the mask, `MASK_BITS` bits (it counts from one less) of an array that lives until it returns,
        // and writes nothing. The range is this region's own mapping, whole pages that stay mapped while `self` lives; without
        // MPOL_MF_MOVE no page of it changes place, and its bytes are not touched.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.as_ptr(),
                self.len(),
                libc::c_long::from(libc::MPOL_PREFERRED),
                mask.as_ptr(),
                MASK_BITS + 1,
                0_usize,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// [`prefer`](Self::prefer), and says in one line what came of it; without a node nothing.
    pub(crate) fn place(&self, name: &str, node: Option<Node>) {
        let Some(node) = node else { return };
        match self.prefer(node) {
            Ok(()) => tracing::info!(name, len = self.len(), "placed on {node}, where the device is"),
            Err(error) => {
                tracing::warn!(name, len = self.len(), %error, "not placed on {node}, where the device is: slower, and no more");
            }
        }
    }
}

type Mask = [usize; MOST_NODES as usize / BITS];

const BITS: usize = usize::BITS as usize;
/// What Linux can be built for at most (CONFIG_NODES_SHIFT, 10).
const MOST_NODES: u32 = 1024;
const MASK_BITS: usize = MOST_NODES as usize;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::HugePages;

    #[test]
    fn a_node_counts_where_there_are_several() {
        let address = "0000:03:00.0".parse().unwrap();
        let check = |memory: &str, node: &str| {
            let root = tempfile::tempdir().unwrap();
            let (nodes, device) = ("devices/system/node", "bus/pci/devices/0000:03:00.0");
            for (folder, file, text) in [(nodes, "has_memory", memory), (device, "numa_node", node)] {
                let folder = root.path().join(folder);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(file), text).unwrap();
            }
            Node::found(root.path(), address).map(|node| node.0)
        };
        assert_eq!(check("0-1\n", "1\n"), Some(1));
        assert_eq!(check("0-1\n", "0\n"), Some(0));
        assert_eq!(check("0\n", "0\n"), None, "one node");
        assert_eq!(check("0-1\n", "-1\n"), None, "not known");
        assert_eq!(check("0,2\n", "1\n"), None, "a node without memory");
        assert_eq!(check("", "1\n"), None, "no nodes");
        assert_eq!(check("0-2000\n", "1500\n"), None, "more than Linux has");
        assert_eq!(Node::found(Path::new("/nowhere"), address), None);
    }

    /// linux/mempolicy.h.
    const MPOL_F_NODE: libc::c_int = 1;
    const MPOL_F_ADDR: libc::c_int = 2;

    /// What get_mempolicy(2) says of an address: the policy and the first word of its nodes with `flags` = MPOL_F_ADDR; with
    /// MPOL_F_NODE besides, the node of the page there.
    fn asked(memory: &SharedMemory, flags: libc::c_int) -> io::Result<(libc::c_int, usize)> {
        let (mut mode, mut mask) = (0, Mask::default());
        // SAFETY: get_mempolicy(2) writes an int and `MASK_BITS` bits, for both of which there is room that lives until it
        // returns; the address is mapped, and only looked up.
        let done = unsafe {
            let (mode, mask) = (&raw mut mode, mask.as_mut_ptr());
            libc::syscall(libc::SYS_get_mempolicy, mode, mask, MASK_BITS, memory.as_ptr(), flags)
        };
        if done == 0 { Ok((mode, mask[0])) } else { Err(io::Error::last_os_error()) }
    }

    #[test]
    fn pages_come_from_the_node_that_is_preferred() {
        let memory = SharedMemory::new("test", 1 << 20, HugePages::Never).unwrap();
        let before = match asked(&memory, MPOL_F_ADDR) {
            Ok(before) => before,
            // A kernel without nodes, or a container's filter.
            Err(error) => return println!("SKIPPED: memory on a node: get_mempolicy: {error}"),
        };
        assert_eq!(before, (libc::MPOL_DEFAULT, 0));
        if let Err(error) = memory.prefer(Node(0)) {
            return println!("SKIPPED: memory on a node: mbind: {error}");
        }
        assert_eq!(asked(&memory, MPOL_F_ADDR).unwrap(), (libc::MPOL_PREFERRED, 1));
        memory.write_at(0, &[1; 5000]);
        let (node, _) = asked(&memory, MPOL_F_ADDR | MPOL_F_NODE).unwrap();
        assert_eq!(node, 0, "where the page is");
        // The memory's, not the mapping's: a device model, and a view of the file, map it again.
        let again = SharedMemory::of_file(memory.fd().try_clone_to_owned().unwrap(), 1 << 20, crate::Access::ReadWrite);
        assert_eq!(asked(&again.unwrap(), MPOL_F_ADDR).unwrap(), (libc::MPOL_PREFERRED, 1));
    }

    #[test]
    fn a_node_that_is_not_there_is_refused_and_harms_nothing() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        assert!(memory.prefer(Node(MOST_NODES - 1)).is_err());
        assert!(memory.prefer(Node(u32::MAX)).is_err());
        memory.place("test", Some(Node(MOST_NODES - 1)));
        memory.write_at(0, &[1]);
    }
}
