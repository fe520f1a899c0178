//! Loading the package into the device (Linux `ice_ddp.c`).

use std::time::Duration;

use super::adminq::{AdminQueue, BUFFER, Request};
use super::commands::*;
use super::ddp::{self, Loaded, Package};
use super::init::Function;
use crate::{Error, Result};

/// How the firmware answers who wants to load a package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lock {
    /// It is ours to load.
    Taken,
    /// Another function of the card has loaded one.
    Done,
}

impl Function {
    /// Loads a package, unless the device has one already; it keeps it until the whole card is reset. Returns the one in
    /// force.
    pub(super) fn load(&self, package: Option<&Package<'_>>) -> Result<Option<Loaded>> {
        let mut admin = self.admin();
        if let Some(package) = package {
            check_firmware(&mut admin, package)?;
            if lock(&mut admin)? == Lock::Taken {
                let outcome = download(&mut admin, package);
                admin.ask(Request::new(RELEASE_RESOURCE).with(0, &GLOBAL_LOCK.to_le_bytes()))?;
                outcome?;
            }
        }
        let in_force = list(&mut admin)?.into_iter().find(|loaded| loaded.active && !loaded.built_in);
        match (package, &in_force) {
            (Some(package), None) => {
                let what = format!("version {} was loaded, and none is in force", ddp::dotted(package.version));
                Err(admin.senseless(PACKAGE_LIST, what))
            }
            // One that somebody else has loaded, and that this driver does not know, is as good as none.
            (_, Some(loaded)) if !ddp::is_known(loaded.version) => Ok(None),
            _ => Ok(in_force),
        }
    }
}

fn list(admin: &mut AdminQueue) -> Result<Vec<Loaded>> {
    let answer = admin.ask(Request::new(PACKAGE_LIST).asking(BUFFER))?;
    ddp::list(&answer.buffer).map_err(|what| admin.senseless(PACKAGE_LIST, what))
}

/// The package must go with the one that is built into the firmware.
fn check_firmware(admin: &mut AdminQueue, package: &Package<'_>) -> Result<()> {
    let built_in = list(admin)?.into_iter().find(|loaded| loaded.built_in);
    let [major, minor, ..] = package.format;
    match built_in {
        Some(Loaded { version, .. }) if version[0] != major || minor > version[1] => {
            let (found, firmware) = (ddp::dotted(package.format), ddp::dotted(version));
            Err(Error::Package { what: format!("is made for {found}, the firmware has {firmware}") })
        }
        _ => Ok(()),
    }
}

/// Takes the lock that only one function of the card can have, once.
fn lock(admin: &mut AdminQueue) -> Result<Lock> {
    let params = [GLOBAL_LOCK.to_le_bytes(), WRITE.to_le_bytes()].concat();
    let request = Request::new(REQUEST_RESOURCE).with(0, &params).with(4, &LOCK_MS.to_le_bytes());
    let start = admin.now();
    loop {
        let answer = admin.send(request)?;
        // The status says more than the code.
        match answer.u16(12) {
            LOCK_DONE => return Ok(Lock::Done),
            LOCK_IN_PROGRESS => {}
            _ if answer.code == 0 => return Ok(Lock::Taken),
            _ if answer.code != EBUSY => return Err(admin.refused(REQUEST_RESOURCE, answer.code)),
            _ => {}
        }
        if admin.now().saturating_sub(start) >= Duration::from_millis(LOCK_MS.into()) {
            return Err(admin.refused(REQUEST_RESOURCE, EBUSY));
        }
        admin.sleep(Duration::from_millis(10));
    }
}

fn download(admin: &mut AdminQueue, package: &Package<'_>) -> Result<()> {
    for (buffer, last) in package.to_download() {
        let request = Request::new(DOWNLOAD_PACKAGE).with(0, &[u8::from(last)]).giving(buffer);
        let mut tries = 0;
        loop {
            let answer = admin.send(request)?;
            match answer.code {
                0 => break,
                // The security block may not be ready yet.
                ENOSEC | EBADSIG if tries < SECURITY_TRIES => tries += 1,
                code => return Err(admin.refused(DOWNLOAD_PACKAGE, code)),
            }
            admin.sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// The resource, and that it is wanted for writing.
const GLOBAL_LOCK: u16 = 4;
const WRITE: u16 = 2;
/// How long a lock may be held, ms (Linux).
const LOCK_MS: u32 = 3000;
// What became of it.
const LOCK_IN_PROGRESS: u16 = 1;
const LOCK_DONE: u16 = 2;
const SECURITY_TRIES: u32 = 5;
