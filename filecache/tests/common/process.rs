//! Writers in processes of their own: the test binary again, told by its environment what to be.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use stillwire_filecache::attach::attach;
use stillwire_filecache::{AttachedFile, Cache};

use crate::common::counting::{found_in, place};
use crate::common::{PAGE, quiet};

/// What a process does, line by line. Every line is answered by one that begins with `@`, on the error output: the
/// standard output is the test harness's.
pub fn child() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let path = std::env::var(FILE).unwrap();
    if std::env::var_os(SERVER).is_some() {
        let cache = Cache::new(quiet()).unwrap();
        let _door = cache.serve(&socket).unwrap();
        let file = cache.open(path).unwrap();
        eprintln!("@serving");
        let mut hold = None;
        for line in std::io::stdin().lines() {
            hold = (line.unwrap() == "hold").then(|| file.hold(0..1).unwrap());
            eprintln!("@ok");
        }
        drop(hold);
        return;
    }
    let file = match attach(socket, path) {
        Ok(file) => file,
        Err(error) => return eprintln!("@error {error}"),
    };
    eprintln!("@attached");
    for line in std::io::stdin().lines() {
        match obey(&file, line.unwrap().split(' ').collect::<Vec<_>>().as_slice()) {
            Ok(answer) => eprintln!("@{answer}"),
            Err(error) => eprintln!("@error {error}"),
        }
    }
    drop(file);
    eprintln!("@detached");
}

fn obey(file: &AttachedFile, line: &[&str]) -> stillwire_filecache::Result<String> {
    let number = |at: usize| line[at].parse::<u64>().unwrap();
    match line[0] {
        "write" => file.write_at(number(1), &vec![number(2) as u8; number(3) as usize])?,
        #[allow(unsafe_code)]
        // SAFETY: tests name bytes inside of the view.
        "raw" => unsafe { file.as_ptr().add(number(1) as usize).write_volatile(number(2) as u8) },
        "sync" => file.sync()?,
        "read" => {
            let mut byte = [0];
            file.read_at(number(1), &mut byte)?;
            return Ok(byte[0].to_string());
        }
        "len" => return Ok(file.len().to_string()),
        "count" => return count(file, number(1), Duration::from_millis(number(2))),
        "exec" => panic!("{}", Command::new("sleep").arg("60").exec()),
        other => panic!("{other}"),
    }
    Ok("ok".into())
}

/// Counts up in a word of its own in every page, and finds every count again, here and on the disk.
fn count(file: &AttachedFile, slot: u64, time: Duration) -> stillwire_filecache::Result<String> {
    let mut counts = vec![0u32; file.len() as usize / PAGE];
    let mut random = slot + 1;
    let start = Instant::now();
    let mut stores = 0;
    while start.elapsed() < time {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let page = (random >> 33) as usize % counts.len();
        counts[page] += 1;
        stores += 1;
        file.write_at(place(page, slot), &counts[page].to_ne_bytes())?;
    }
    for (page, count) in counts.iter().enumerate() {
        let mut found = [0; 4];
        file.read_at(place(page, slot), &mut found)?;
        if u32::from_ne_bytes(found) != *count {
            return Ok(format!("lost a store in page {page}"));
        }
    }
    file.sync()?;
    let disk = std::fs::read(std::env::var(FILE).unwrap()).unwrap();
    if let Some((page, _)) = counts.iter().enumerate().find(|(page, count)| found_in(&disk, *page, slot) != **count) {
        return Ok(format!("lost a store on the way to the disk, in page {page}"));
    }
    Ok(format!("stored {stores}"))
}

/// Another process; killed when it goes.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Process {
    /// One that is about to attach.
    pub fn start(socket: &Path, file: &Path) -> Self {
        Self::spawn(Self::command(socket, file))
    }

    /// One that has attached.
    pub fn attached(socket: &Path, file: &Path) -> Self {
        let process = Self::start(socket, file);
        assert_eq!(process.answer(), "attached");
        process
    }

    /// A cache that serves.
    pub fn server(socket: &Path, file: &Path) -> Self {
        let mut command = Self::command(socket, file);
        command.env(SERVER, "1");
        let process = Self::spawn(command);
        assert_eq!(process.answer(), "serving");
        process
    }

    /// One that is about to attach, or a cache that is about to serve, as another user, by a `copy` of this program that user can
    /// run. Needs root.
    pub fn of_user(user: u32, copy: &Path, serves: bool, socket: &Path, file: &Path) -> Self {
        let mut command = Command::new(copy);
        // The folder of whoever runs the tests may be closed to that user.
        command.args(ARGUMENTS).env(SOCKET, socket).env(FILE, file).current_dir("/").uid(user).gid(user);
        if serves {
            command.env(SERVER, "1");
        }
        Self::spawn(command)
    }

    fn command(socket: &Path, file: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(ARGUMENTS).env(SOCKET, socket).env(FILE, file);
        command
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, answers) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.strip_prefix('@') {
                    Some(answer) => drop(sender.send(answer.to_string())),
                    None => eprintln!("another process: {line}"),
                }
            }
        });
        Self { input: child.stdin.take(), child, answers }
    }

    /// Tells it something to do.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What it says next.
    pub fn answer(&self) -> String {
        match self.answers.recv_timeout(Duration::from_secs(20)) {
            Ok(answer) => answer,
            Err(why) => panic!("no answer: {why}"),
        }
    }

    /// Whether it says nothing for a moment.
    pub fn is_silent(&self) -> bool {
        self.answers.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout)
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// What it says next, if it lives so long.
    pub fn answers_or_dies(&mut self, line: &str) -> Option<String> {
        let _ = writeln!(self.input.as_mut().unwrap(), "{line}");
        self.answers.recv_timeout(Duration::from_secs(20)).ok()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Lets it come to its end; the signal that ended it, if one did.
    pub fn end(&mut self) -> Option<i32> {
        self.input = None;
        self.child.wait().unwrap().signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ARGUMENTS: [&str; 3] = ["--exact", "another_process", "--nocapture"];
const SOCKET: &str = "STILLWIRE_TEST_SOCKET";
const FILE: &str = "STILLWIRE_TEST_FILE";
const SERVER: &str = "STILLWIRE_TEST_SERVER";
