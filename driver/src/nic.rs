//! A NIC: bring-up, link, queues, reset.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillwire_dma::PciFunction;

use crate::frame::Returned;
use crate::other::OtherTx;
use crate::queues::{AnyRx, AnyTx};
use crate::{Capabilities, Config, Error, Filter, Link, Mac, Result, RxQueue, Statistics, TxQueue, ice, ixgbe, virtio};

/// A NIC that was reset, set up and started. Dropping it stops the device; queues taken from it are dead then.
pub struct Nic {
    /// `None` after a [reset](Self::reset) that did not bring it up again.
    device: Option<Device>,
    function: PciFunction,
    config: Config,
    /// What the device was to learn protocols from.
    package: Option<Box<[u8]>>,
    name: String,
    mac: Mac,
    capabilities: Capabilities,
    seen: Mutex<Seen>,
}

/// What a NIC knows beside its device.
#[derive(Default)]
struct Seen {
    /// Whether the last look at the link found one; `None` before the first.
    up: Option<bool>,
    /// Whether its end was told of.
    ended: bool,
    /// Of the device's lives before this one, and what no device counts.
    sum: Statistics,
    /// What [`Nic::set_filter`] was told last.
    filter: Option<Filter>,
}

/// One of the families.
pub(crate) enum Device {
    Ixgbe(Box<ixgbe::Device>),
    Ice(Box<ice::Device>),
    Virtio(virtio::Device),
}

impl Device {
    fn open(function: PciFunction, config: Config, package: Option<&[u8]>) -> Result<Self> {
        Self::of_family(function.clone(), config, package).map_err(|error| {
            // Of a device that went meanwhile all is wrong, and whatever was looked at last is not what is to be told.
            let says_it = matches!(error, Error::UnknownDevice { vendor: 0xffff, .. } | Error::Dma(_));
            match function.config_read16(0) {
                Ok(0xffff) | Err(_) if !says_it => Error::Gone { name: function.name() },
                _ => error,
            }
        })
    }

    fn of_family(function: PciFunction, config: Config, package: Option<&[u8]>) -> Result<Self> {
        let identity = function.identity()?;
        let (vendor, device) = (identity.vendor, identity.device);
        if ixgbe::knows(vendor, device) {
            Ok(Self::Ixgbe(Box::new(ixgbe::Device::open(function, config)?)))
        } else if ice::knows(vendor, device) {
            Ok(Self::Ice(Box::new(ice::Device::open(function, config, package)?)))
        } else if virtio::knows(vendor, device) {
            Ok(Self::Virtio(virtio::Device::open(function, config)?))
        } else {
            Err(Error::UnknownDevice { name: function.name(), vendor, device })
        }
    }

    fn mac(&self) -> Mac {
        match self {
            Self::Ixgbe(device) => device.mac,
            Self::Ice(device) => device.mac,
            Self::Virtio(device) => device.mac,
        }
    }

    fn statistics(&self) -> Statistics {
        match self {
            Self::Ixgbe(device) => device.statistics(),
            Self::Ice(device) => device.statistics(),
            Self::Virtio(device) => device.statistics(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        match self {
            Self::Ixgbe(device) => device.capabilities(),
            Self::Ice(device) => device.capabilities(),
            Self::Virtio(device) => device.capabilities(),
        }
    }
}

impl Nic {
    /// Takes a PCI function and brings it up. The link may take seconds more: [`wait_for_link`](Self::wait_for_link).
    ///
    /// # Errors
    /// [`Error::UnknownDevice`], [`Error::Setting`], [`Error::Timeout`], [`Error::NoMac`], [`Error::Feature`],
    /// [`Error::Protocol`], [`Error::Command`], or what the bus says.
    pub fn open(function: PciFunction, config: Config) -> Result<Self> {
        Self::bring_up(function, config, None)
    }

    /// The same with a DDP package, the bytes of an `ice.pkg`: what an Intel E810 learns protocols from. It is loaded unless
    /// the card has one. Without any the card knows no offloads ([`Capabilities`]). Other devices do not look at it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Package`].
    pub fn open_with_package(function: PciFunction, config: Config, package: &[u8]) -> Result<Self> {
        Self::bring_up(function, config, Some(package.into()))
    }

    fn bring_up(function: PciFunction, config: Config, package: Option<Box<[u8]>>) -> Result<Self> {
        config.check()?;
        tracing::debug!(device = function.name(), ?config, "opening");
        let device = Device::open(function.clone(), config, package.as_deref())?;
        let (name, mac, capabilities) = (function.name(), device.mac(), device.capabilities());
        tracing::info!(device = name, %mac, "brought up");
        Ok(Self { device: Some(device), function, config, package, name, mac, capabilities, seen: Mutex::default() })
    }

    /// The NIC's own Ethernet address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// State of the port now. A link that was lost and came back between two calls is down at the second where the device
    /// remembers it (the 82599 does, and the E810's events), and up at the third.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Protocol`] of a device that is not believed any more; [`Error::Stopped`] after a reset that
    /// failed.
    pub fn link(&self) -> Result<Link> {
        let link = match self.device()? {
            Device::Ixgbe(device) => device.link(),
            Device::Ice(device) => device.link(),
            Device::Virtio(device) => device.link(),
        }?;
        let mut seen = self.seen();
        let was_up = seen.up.replace(link.up);
        seen.sum.link_losses += u64::from(was_up == Some(true) && !link.up);
        drop(seen);
        if was_up != Some(link.up) {
            tracing::info!(device = self.name, up = link.up, megabits = link.megabits, "the link has changed");
        }
        Ok(link)
    }

    /// Waits until frames can pass.
    ///
    /// # Errors
    /// [`Error::NoLink`] after `deadline`, [`Error::Gone`].
    pub fn wait_for_link(&self, deadline: Duration) -> Result<Link> {
        let start = self.function.now();
        loop {
            let link = self.link()?;
            if link.up {
                return Ok(link);
            }
            let waited = self.function.now().saturating_sub(start);
            if waited >= deadline {
                return Err(Error::NoLink { name: self.name.clone(), waited });
            }
            self.function.sleep(Duration::from_millis(1));
        }
    }

    /// Counts since the NIC was opened.
    pub fn statistics(&self) -> Statistics {
        let sum = self.seen().sum;
        self.device.as_ref().map_or(sum, |device| sum.and(device.statistics()))
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The next transmit queue that nobody has taken, for frames that carry tokens of type `T`: there are
    /// [`Config::queues`].
    ///
    /// Tokens own what they stand for (`'static`): one that merely borrowed it could be outlived by the device.
    ///
    /// # Errors
    /// [`Error::QueueTaken`], [`Error::Timeout`], or what memory and mappings say.
    pub fn tx_queue<T: 'static>(&self) -> Result<TxQueue<T>> {
        Ok(TxQueue(match self.device()? {
            Device::Ixgbe(device) => AnyTx::Ixgbe(ixgbe::TxQueue::new(device.function.clone())?),
            Device::Ice(device) => AnyTx::Other(OtherTx::Ice(ice::TxQueue::new(device.function.clone())?)),
            Device::Virtio(device) => AnyTx::Other(OtherTx::Virtio(virtio::TxQueue::new(device.function.clone())?)),
        }))
    }

    /// The next receive queue that nobody has taken: there are [`Config::queues`].
    ///
    /// # Errors
    /// As [`tx_queue`](Self::tx_queue).
    pub fn rx_queue(&self) -> Result<RxQueue> {
        Ok(RxQueue(match self.device()? {
            Device::Ixgbe(device) => AnyRx::Ixgbe(ixgbe::RxQueue::new(device.function.clone())?),
            Device::Ice(device) => AnyRx::Ice(ice::RxQueue::new(device.function.clone())?),
            Device::Virtio(device) => AnyRx::Virtio(virtio::RxQueue::new(device.function.clone())?),
        }))
    }

    /// Stops all DMA of the device, with proof. Queues keep their tokens until they are dropped or stopped themselves.
    ///
    /// # Errors
    /// [`Error::NotQuiet`] when there is no proof.
    pub fn stop(&self) -> Result<()> {
        let stopped = match &self.device {
            Some(Device::Ixgbe(device)) => device.function.stop().map(|_quiet| ()),
            Some(Device::Ice(device)) => device.function.stop().map(|_quiet| ()),
            Some(Device::Virtio(device)) => device.function.stop().map(|_quiet| ()),
            None => Ok(()),
        };
        match &stopped {
            _ if std::mem::replace(&mut self.seen().ended, true) => {}
            Ok(()) => tracing::info!(device = self.name, "stopped; it is proved quiet"),
            Err(error) => tracing::error!(%error, "not proved quiet"),
        }
        stopped
    }

    /// Stops the device with proof, gives back what is in its rings, and brings it up again as it was opened: for a device
    /// that hangs ([`Watchdog`](crate::Watchdog)), or one that lost its link with work in its rings. All queues that were
    /// taken must be handed in; new ones are taken afterwards, and the link may take seconds, as after [`open`](Self::open).
    ///
    /// `back` gets every token once, with the number of its queue, in the order in which it was posted there. What the device
    /// had said to be done before it was stopped is [`Returned::Done`]; for that no proof is needed. All others come back
    /// behind the proof, as [`Returned::NotSent`].
    ///
    /// When the device was stopped but does not come up, this may be called again, with no queues.
    ///
    /// # Errors
    /// [`Error::NotQuiet`]: no proof could be had, and the tokens are kept until the program ends. Else as
    /// [`open`](Self::open); while somebody still has one of the queues the function is in use.
    pub fn reset<T>(
        &mut self,
        tx: impl IntoIterator<Item = TxQueue<T>>,
        rx: impl IntoIterator<Item = RxQueue>,
        mut back: impl FnMut(usize, Returned<T>),
    ) -> Result<()> {
        let mut tx: Vec<_> = tx.into_iter().collect();
        for queue in &mut tx {
            let number = queue.index();
            queue.reclaim(|token| back(number, Returned::Done(token)));
        }
        let mut stopped = self.stop();
        for queue in tx {
            let number = queue.index();
            let ended = queue.stop(|token| back(number, Returned::NotSent(token)));
            stopped = with_all_kept(stopped, ended);
        }
        // Without proof they keep their memory.
        rx.into_iter().for_each(drop);
        stopped?;
        self.come_up_again()
    }

    fn come_up_again(&mut self) -> Result<()> {
        let before = self.statistics();
        // The function is free for its next life when the last one of this is gone.
        self.device = None;
        let filter = self.seen().filter.take();
        self.seen = Mutex::new(Seen { up: None, ended: false, sum: before, filter: filter.clone() });
        self.device = Some(Device::open(self.function.clone(), self.config, self.package.as_deref())?);
        self.seen().sum.resets += 1;
        tracing::info!(device = self.name, "reset, and brought up again");
        filter.map_or(Ok(()), |filter| self.set_filter(&filter))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn remember(&self, filter: &Filter) {
        self.seen().filter = Some(filter.clone());
    }

    pub(crate) fn device(&self) -> Result<&Device> {
        self.device.as_ref().ok_or_else(|| Error::Stopped { name: self.name.clone() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of two outcomes of stopping that is an error, with what was kept in both.
fn with_all_kept(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(Error::NotQuiet { name, why, kept }), Err(Error::NotQuiet { kept: more, .. })) => {
            Err(Error::NotQuiet { name, why, kept: kept + more })
        }
        (first, second) => first.and(second),
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
