//! This program again, in other processes that do one thing and may be killed.

pub mod emulator;
pub mod station;
pub mod writer;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A process of this program. It ends by itself when its standard input is closed, so none outlives this one.
pub struct Child {
    child: std::process::Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    said: String,
}

/// How a process came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// By SIGKILL, which was ours.
    Killed,
    /// By itself, with this code.
    Exited(i32),
    /// By another signal.
    Signal(i32),
}

impl Child {
    /// Starts this program with `arguments`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(arguments: &[String]) -> std::io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments);
        Self::of(command)
    }

    /// Starts another program.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(mut command: Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { input: child.stdin.take(), output: child.stdout.take(), child, said: String::new() })
    }

    /// Waits for what it says first; false if it ends without a word.
    pub fn wait_for_a_word(&mut self) -> bool {
        let mut byte = [0];
        self.output.as_mut().is_some_and(|output| matches!(output.read(&mut byte), Ok(1)))
    }

    /// Kills it.
    pub fn kill(&mut self) -> Ending {
        // One that has ended already is told by how it ended.
        let _ = self.child.kill();
        self.end()
    }

    /// Tells it to end, and waits.
    pub fn let_end(&mut self) -> Ending {
        self.input = None;
        self.end()
    }

    /// Waits for its end, which must come within `deadline`; `None` if it does not.
    pub fn end_within(&mut self, deadline: Duration) -> Option<Ending> {
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(self.end())
    }

    /// Has it end by itself, without a word from us, as soon as its standard input is closed.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Ending {
        if let Some(mut output) = self.output.take() {
            // What is no text is nothing that it was to say.
            let _ = output.read_to_string(&mut self.said);
        }
        self.input = None;
        match self.child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Ending::Exited(code),
                (None, Some(9)) => Ending::Killed,
                (None, signal) => Ending::Signal(signal.unwrap_or(0)),
            },
            Err(_) => Ending::Signal(0),
        }
    }

    /// What it said until its end.
    pub fn said(&self) -> &str {
        &self.said
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In such a process: ends it when the standard input is closed, unless `gently` does something else.
pub fn end_with_the_parent(gently: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let wait = move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        gently();
        // Who does not come to an end is ended.
        std::thread::sleep(Duration::from_secs(45));
        std::process::exit(5);
    };
    std::thread::Builder::new().name("soak-parent".into()).spawn(wait).map(drop)
}
