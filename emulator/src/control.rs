//! Faults on command: a socket that takes one fault a line, for a test that is another process.
//!
//! ```text
//! stall-tx          ->  ok
//! stuck@500         ->  ok
//! wings             ->  error 'wings' is no fault; use ...
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stillwire_dma::peer;

use crate::local::LocalDevice;
use crate::model::DeviceModel;
use crate::server::listen;

/// A socket file, removed when dropped.
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Listens on `path`, which only the owner may connect to, for as long as the process lives. Each client has a thread.
    ///
    /// # Errors
    /// What the kernel said: the path is taken, or cannot be written.
    pub fn listen<M: DeviceModel>(path: &Path, device: &Arc<LocalDevice<M>>) -> io::Result<Self> {
        let listener = UnixListener::from(listen(path)?);
        let device = Arc::downgrade(device);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten().filter(|client| peer::check(client).is_ok()) {
                let device = device.clone();
                std::thread::spawn(move || {
                    // A client that hangs up is done.
                    let _ = converse(&client, |line| match device.upgrade() {
                        Some(device) => device.with_model(|model| model.set_fault(line)),
                        None => Err("the device is gone".to_owned()),
                    });
                });
            }
        });
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn converse(client: &UnixStream, mut set: impl FnMut(&str) -> Result<(), String>) -> io::Result<()> {
    let mut answers = client;
    for line in BufReader::new(client).lines() {
        match set(line?.trim()) {
            Ok(()) => writeln!(answers, "ok")?,
            Err(why) => writeln!(answers, "error {why}")?,
        }
    }
    Ok(())
}
