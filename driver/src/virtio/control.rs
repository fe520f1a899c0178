//! Commands on the control queue (virtio 1.2, 5.1.6.5): one at a time, each waited for.

use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, SharedMemory};

use super::breach::Breach;
use super::desc::WRITE;
use super::init::Function;
use super::virtqueue::Virtqueue;
use crate::{Error, Result};

/// The control queue, with room for one command.
pub(crate) struct Control {
    queue: Virtqueue,
    memory: SharedMemory,
    mapping: Arc<Mapping>,
    /// Position of the next chain.
    next: u64,
}

/// What a device is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Take frames for other stations as well, or not.
    Promiscuous(bool),
    /// Use so many pairs of queues.
    Pairs(u16),
}

impl Command {
    /// Its name in the standard.
    fn name(self) -> &'static str {
        match self {
            Self::Promiscuous(_) => "VIRTIO_NET_CTRL_RX_PROMISC",
            Self::Pairs(_) => "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET",
        }
    }

    /// Class, command, data.
    fn encode(self) -> Vec<u8> {
        match self {
            Self::Promiscuous(on) => vec![0, 0, on.into()],
            Self::Pairs(pairs) => [[4, 0], pairs.to_le_bytes()].concat(),
        }
    }
}

impl Control {
    pub(crate) fn new(function: &Function, queue: Virtqueue) -> Result<Self> {
        let memory = function.pci.iommu().memory("stillwire-control", ANSWER + 1, HugePages::Never)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        function.keep(mapping.clone());
        Ok(Self { queue, memory, mapping, next: 0 })
    }

    /// Tells the device something, and waits until it says that it is done.
    ///
    /// # Errors
    /// [`Error::Command`] when it says nothing, or no; [`Error::Protocol`] when it says what cannot be.
    pub(crate) fn tell(&mut self, function: &Function, command: Command) -> Result<()> {
        let bytes = command.encode();
        self.memory.write_at(0, &bytes);
        self.memory.write_at(ANSWER, &[NO_ANSWER]);
        let [command_at, answer_at] =
            [0..bytes.len(), ANSWER..ANSWER + 1].map(|range| self.mapping.segment(range).expect("all of it is mapped"));
        let first = self.next;
        self.next = 1 + self.queue.put(first, command_at, &[answer_at], WRITE);
        self.queue.show();
        let refused = |why: String| Error::Command { name: function.pci.name(), command: command.name(), why };
        let start = function.pci.now();
        while !self.is_answered(first).map_err(|breach| function.breaks(format!("control queue: {breach}")))? {
            function.sound()?;
            let waited = function.pci.now().saturating_sub(start);
            if waited >= DEADLINE {
                return Err(refused(format!("said nothing for {waited:?}")));
            }
            function.pci.sleep(POLL);
        }
        let mut answer = [NO_ANSWER];
        self.memory.read_at(ANSWER, &mut answer);
        match answer {
            [OK] => Ok(()),
            [other] => Err(refused(format!("answered {other}, not {OK}"))),
        }
    }

    /// Whether the device has used the chain that begins at `first`, which is the only one that it has.
    fn is_answered(&mut self, first: u64) -> std::result::Result<bool, Breach> {
        self.queue.look()?;
        let Some(used) = self.queue.peek()? else { return Ok(false) };
        let id = u32::from(used.id);
        if u64::from(used.id) != first & u64::from(self.queue.size() - 1) {
            return Err(Breach::NotInFlight { id });
        }
        if used.wrote && used.len > 1 {
            return Err(Breach::Len { id, len: used.len, room: 1 });
        }
        self.queue.pass(used.id, 1, 2)?;
        Ok(true)
    }
}

/// Descriptors of the control queue.
pub(crate) const CONTROL_RING: u16 = 16;
/// Where the answer is, in a cache line of its own.
const ANSWER: usize = 64;
const NO_ANSWER: u8 = 0xff;
const OK: u8 = 0;
/// A device that needs longer for a command is not waited for.
const DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks.
const POLL: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use super::*;

    /// Goldens worked out by hand from the standard's tables.
    #[test]
    fn commands_bytes() {
        assert_eq!(Command::Promiscuous(true).encode(), [0, 0, 1]);
        assert_eq!(Command::Promiscuous(false).encode(), [0, 0, 0]);
        assert_eq!(Command::Pairs(0x0102).encode(), [4, 0, 2, 1]);
    }
}
