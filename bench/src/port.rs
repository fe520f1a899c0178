//! A NIC that was brought up, with its queues.

use std::time::Duration;

use stillwire_driver::{Config, Frame, Nic, Posted, Result, RxQueue, TxQueue};

use crate::Device;
use crate::paper::RECEIVED;

/// A NIC's queues, and the NIC itself.
pub struct Port<T> {
    /// Transmit.
    pub tx: TxQueue<T>,
    /// Receive.
    pub rx: RxQueue,
    _nic: Nic,
}

impl<T: stillwire_dma::Payload + 'static> Port<T> {
    /// Brings a device up, with rings of `ring` descriptors each and frames of up to `max_frame` bytes, and turns the
    /// rings once: memory that was never touched is not what is timed.
    ///
    /// # Errors
    /// What the driver or the device says.
    pub fn open(device: &Device, ring: u16, max_frame: u16) -> Result<Self> {
        let config = Config { tx_ring: ring, rx_ring: ring, max_frame, ..Config::default() };
        let running = device.run();
        let nic = Nic::open(device.function().clone(), config)?;
        nic.wait_for_link(Duration::from_secs(5))?;
        let mut port = Self { tx: nic.tx_queue()?, rx: nic.rx_queue()?, _nic: nic };
        drop(running);
        for _ in 0..2 {
            while let Posted::Queued = port.tx.post(Frame::new(&[0xff; 60]))? {}
            port.tx.publish();
            device.settle()?;
            port.tx.reclaim(drop);
            device.receive(ring.into(), &RECEIVED)?;
            port.rx.poll(ring.into(), |_| {});
        }
        Ok(port)
    }
}
