//! Whether an input was survived: no panic, in no thread.
//!
//! Two libraries that talk to a peer are known to panic at what it says, and their callers catch that. Those panics are
//! the calls' answer and no finding; every other one is, caught or not.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};

use crate::Target;

/// Panics since the last look.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Gives `bytes` to a target.
///
/// # Errors
/// What broke, in words.
pub fn judge(target: &Target, bytes: &[u8]) -> Result<(), String> {
    listen();
    let ended = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = std::mem::take(&mut *panics).join("; ");
    match ended {
        _ if !found.is_empty() => Err(found),
        Ok(()) => Ok(()),
        Err(_) => Err("a library panicked, and nobody caught that".to_owned()),
    }
}

/// For libFuzzer, which wants the process to end: this is one line there.
pub fn feed(name: &str, bytes: &[u8]) {
    let Some(target) = crate::named(name) else {
        eprintln!("{name} is not in the table of targets");
        std::process::abort();
    };
    if let Err(why) = judge(target, bytes) {
        eprintln!("{name}: {why}");
        std::process::abort();
    }
}

/// Has all panics written down. Replaces libFuzzer's own hook, which would end the process at those that are caught.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        crate::process::ignore_broken_pipes();
        panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
            if CAUGHT.iter().any(|library| place.contains(library)) || in_library() {
                return;
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let said = text.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or("(no text)");
            let thread = std::thread::current().name().unwrap_or("?").to_owned();
            PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{thread}: {place}: {said}"));
        }));
    });
}

/// Whether the panic comes out of the standard library for one of those: where a slice is cut, the place is the caller's, but
/// where memory is asked for it is not.
fn in_library() -> bool {
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    let frames: Vec<&str> = trace.lines().filter(|line| !line.trim_start().starts_with("at ")).collect();
    // The first frame that is of neither the standard library nor this hook.
    let mine = |line: &&&str| {
        !["std::", "core::", "alloc::", "stillwire_fuzz::judge", "rust_begin_unwind", "__rust", "rustc"]
            .iter()
            .any(|other| line.contains(other))
    };
    frames.iter().find(mine).is_some_and(|line| line.contains("vfio_user::"))
}

/// Libraries whose panics are caught by who calls them (`dma/src/vfio_user.rs`, `emulator/src/server.rs`).
const CAUGHT: [&str; 1] = ["/vfio_user-"];
