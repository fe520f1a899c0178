//! One program of the race: it lives for all of it and sleeps on its standard input while others run.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::answer::{self, Answer, Greeting, Wrong};

/// A program that answers; ended when dropped.
pub struct Contestant {
    child: Child,
    /// `None` when it has been told that there is no more.
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Its standard error, where it stands although the file may be gone.
    log: File,
    deadline: Duration,
}

/// Why a work has no figure.
#[derive(Debug, PartialEq)]
pub enum Failed {
    /// The contestant says so, and can do others.
    Work(String),
    /// It cannot be asked any more.
    Gone(String),
}

impl Contestant {
    /// Starts it and waits for its first line. What it says on its standard error goes to the file `log`; each of its
    /// answers must come within `deadline`.
    ///
    /// # Errors
    /// When it does not come to its first line.
    pub fn start(mut command: Command, log: &Path, deadline: Duration) -> Result<(Self, Greeting), String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let file = File::options().read(true).write(true).create(true).truncate(true).open(log);
        let log = file.map_err(|error| format!("{}: {error}", log.display()))?;
        let stderr = log.try_clone().map_err(|error| error.to_string())?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn();
        let mut child = child.map_err(|error| format!("{program} cannot be run: {error}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout.expect("the standard output is piped")).split(b'\n');
            // Bytes and not text: rubbish need not be UTF-8. The receiver is gone when the contestant was given up.
            let texts = lines.map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned());
            texts.take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
        });
        let mut contestant = Self { child, stdin, lines, log, deadline };
        let line = contestant.line("its first line")?;
        let greeting = answer::greeting(&line).map_err(|why| contestant.with_log(why))?;
        Ok((contestant, greeting))
    }

    /// Has it do a work: `run` and what follows.
    ///
    /// # Errors
    /// [`Failed::Gone`] when it has ended, hangs or does not keep to the protocol: it must not be asked again.
    pub fn run(&mut self, work: &str, line: &str) -> Result<Answer, Failed> {
        if let Some(stdin) = self.stdin.as_mut() {
            // One that has ended shows as the end of its lines.
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush());
        }
        let said = self.line(&format!("the answer to `{line}`")).map_err(Failed::Gone)?;
        answer::answer(&said, work).map_err(|wrong| match wrong {
            Wrong::Said(why) => Failed::Work(why),
            Wrong::Rubbish(why) => Failed::Gone(self.with_log(why)),
        })
    }

    /// Tells it that there is no more, and waits until it has ended.
    ///
    /// # Errors
    /// When it fails, or does not end.
    pub fn finish(mut self) -> Result<(), String> {
        self.stdin = None;
        let start = Instant::now();
        while start.elapsed() < self.deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.with_log(format!("it ended with {status}"))),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(self.with_log(format!("it did not end within {} s of the end of its input", self.deadline.as_secs())))
    }

    fn line(&mut self, what: &str) -> Result<String, String> {
        match self.lines.recv_timeout(self.deadline) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                // Else it would take processor time from the others.
                let _ = self.child.kill();
                let seconds = self.deadline.as_secs_f64();
                Err(self.with_log(format!("{what} did not come within {seconds} s; it was killed")))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let _ = self.child.kill();
                let how = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(self.with_log(format!("it ended ({how}) before {what}")))
            }
        }
    }

    /// With the last lines of what it said besides.
    fn with_log(&self, why: String) -> String {
        let length = self.log.metadata().map_or(0, |file| file.len());
        let from = length.saturating_sub(TAIL_BYTES);
        let mut end = vec![0; (length - from) as usize];
        // By its place, as the place at which this file is read is the one at which the child writes.
        if self.log.read_exact_at(&mut end, from).is_err() {
            return why;
        }
        let text = String::from_utf8_lossy(&end);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        match &lines[lines.len().saturating_sub(TAIL)..] {
            [] => why,
            last => format!("{why}. It said: {}", last.join(" | ")),
        }
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So much of its standard error is shown when something went wrong, lines.
const TAIL: usize = 5;
const TAIL_BYTES: u64 = 2048;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A contestant that is a shell script.
    pub fn scripted(script: &str, deadline: Duration) -> Result<(Contestant, Greeting), String> {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Contestant::start(command, log.path(), deadline)
    }

    pub const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);
    const READY: &str = r#"echo '{"ready":"fake 1","works":["tx60"]}'; "#;

    fn ready(rest: &str, deadline: Duration) -> Contestant {
        scripted(&format!("{READY}{rest}"), deadline).unwrap().0
    }

    fn gone(rest: &str, deadline: Duration) -> String {
        match ready(rest, deadline).run("tx60", "run tx60 frames=32") {
            Err(Failed::Gone(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_contestant_is_asked_and_answers_and_ends() {
        // It answers with what it was asked.
        let script =
            r#"while read -r line; do echo "{\"work\":\"tx60\",\"ns\":5,\"frames\":32,\"asked\":\"$line\"}"; done"#;
        let mut contestant = ready(script, LONG);
        for line in ["run tx60 frames=32", "run tx60 frames=64"] {
            assert_eq!(contestant.run("tx60", line).unwrap().more["asked"], line);
        }
        assert_eq!(contestant.finish(), Ok(()));
    }

    #[test]
    fn one_that_skips_is_heard() {
        let (contestant, greeting) = scripted(r#"echo '{"skip":"no room"}'"#, LONG).unwrap();
        assert_eq!(greeting, Greeting::Skip("no room".into()));
        assert_eq!(contestant.finish(), Ok(()));
    }

    #[test]
    fn one_that_cannot_do_a_work_can_do_the_next() {
        let answers =
            r#"read a; echo '{"error":"too large"}'; read b; echo '{"work":"tx60","ns":5,"frames":1}'; read c"#;
        let mut contestant = ready(answers, LONG);
        assert_eq!(contestant.run("tx60", "run tx60"), Err(Failed::Work("too large".into())));
        assert_eq!(contestant.run("tx60", "run tx60").unwrap().frames, 1);
    }

    #[test]
    fn one_that_dies_is_noticed_with_its_last_words() {
        let why = gone("read line; echo 'out of paper' >&2; exit 3", LONG);
        assert!(why.contains("exit status: 3") && why.contains("out of paper") && why.contains("run tx60"), "{why}");
        let Err(why) = scripted("echo 'no ink' >&2", LONG).map(drop) else { panic!("it never greeted") };
        assert!(why.contains("before its first line") && why.contains("no ink"), "{why}");
        let end = ready("cat >/dev/null; exit 4", LONG).finish().unwrap_err();
        assert!(end.contains("exit status: 4"), "{end}");
    }

    #[test]
    fn one_that_hangs_is_killed() {
        // `exec`, so that what is killed is what holds the pipe.
        let why = gone("exec sleep 600", SHORT);
        assert!(why.contains("did not come within 0.3 s"), "{why}");
        // Killed at once, while others run on; were it not, it would end by itself after a while.
        let mut hung = ready("exec sleep 20", SHORT);
        assert!(hung.run("tx60", "run tx60").is_err());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&hung.child.wait().unwrap()), Some(9));
        let why = scripted("exec sleep 600", SHORT).map(drop).unwrap_err();
        assert!(why.contains("its first line did not come"), "{why}");
        let why = ready("exec sleep 600", SHORT).finish().unwrap_err();
        assert!(why.contains("did not end"), "{why}");
    }

    #[test]
    fn one_that_answers_rubbish_is_out() {
        for rubbish in ["EAL: hello", r#"{"work":"rx60","ns":5,"frames":1}"#, r"\377\376", "{}"] {
            let why = gone(&format!("read line; printf '{rubbish}\\n'; read line"), LONG);
            assert!(why.starts_with("it "), "{why}");
        }
        assert!(scripted("echo hello", LONG).map(drop).unwrap_err().contains("no JSON object"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let Err(why) = Contestant::start(Command::new("/no/such/program"), log.path(), LONG).map(drop) else {
            panic!("it cannot have started")
        };
        assert!(why.contains("/no/such/program cannot be run"), "{why}");
    }
}
