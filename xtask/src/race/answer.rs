//! What contestants say: a JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A contestant's first line.
#[derive(Debug, PartialEq)]
pub enum Greeting {
    /// Who it is, with its version; which works it can do, and why not others.
    Ready { version: String, works: Vec<String>, cannot: BTreeMap<String, String> },
    /// Why it cannot run here, and what to do.
    Skip(String),
}

/// What one run of a work took, and what the device counted in it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Answer {
    pub work: String,
    /// All timed regions together, ns; CPU time of the sending thread where a kernel does the work.
    pub ns: u64,
    /// Counted by the device.
    pub frames: u64,
    /// Of frames, without their check sequences.
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub descriptors: u64,
    /// Descriptors with RS; on receipt, descriptors written back.
    #[serde(default)]
    pub reports: u64,
    /// Stores of a tail.
    #[serde(default)]
    pub doorbells: u64,
    /// Whatever else it says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Answer {
    /// A number that only some contestants say.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.more.get(key).and_then(Value::as_u64)
    }
}

/// Reads a first line.
///
/// # Errors
/// When it is none.
pub fn greeting(line: &str) -> Result<Greeting, String> {
    let object = object(line)?;
    if let Some(why) = object.get("skip").and_then(Value::as_str) {
        return Ok(Greeting::Skip(why.to_owned()));
    }
    let works = object.get("works").and_then(Value::as_array);
    match (object.get("ready").and_then(Value::as_str), works) {
        (Some(version), Some(works)) => {
            let works = works.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let cannot = object.get("cannot").and_then(Value::as_object).into_iter().flatten();
            let cannot = cannot.filter_map(|(work, why)| Some((work.clone(), why.as_str()?.to_owned()))).collect();
            Ok(Greeting::Ready { version: version.to_owned(), works, cannot })
        }
        _ => Err(format!("it began with `{}`, which is neither ready nor skip", shortened(line))),
    }
}

/// Reads the answer to `run work`.
///
/// # Errors
/// [`Wrong::Said`] when it answers that it could not; [`Wrong::Rubbish`] when this is no answer.
pub fn answer(line: &str, work: &str) -> Result<Answer, Wrong> {
    let object = object(line).map_err(Wrong::Rubbish)?;
    if let Some(why) = object.get("error").and_then(Value::as_str) {
        return Err(Wrong::Said(why.to_owned()));
    }
    let answer: Answer = serde_json::from_value(Value::Object(object))
        .map_err(|error| Wrong::Rubbish(format!("it answered `{}`: {error}", shortened(line))))?;
    if answer.work == work {
        Ok(answer)
    } else {
        Err(Wrong::Rubbish(format!("it was asked for {work} and answered {}", answer.work)))
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq)]
pub enum Wrong {
    /// Its own words.
    Said(String),
    /// It does not keep to the protocol.
    Rubbish(String),
}

fn object(line: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(line)
        .map_err(|error| format!("it said `{}`, which is no JSON object: {error}", shortened(line)))
}

/// As much of a line as a reader wants to see.
fn shortened(line: &str) -> String {
    let short: String = line.trim().chars().take(SHOWN).collect();
    if short.len() < line.trim().len() { format!("{short}...") } else { short }
}

/// Characters.
const SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings() {
        let ready = greeting(r#"{"ready":"Linux 6.18","works":["write"],"cannot":{"zerocopy-gso":"no ifb"}}"#).unwrap();
        let cannot = BTreeMap::from([("zerocopy-gso".into(), "no ifb".into())]);
        assert_eq!(ready, Greeting::Ready { version: "Linux 6.18".into(), works: vec!["write".into()], cannot });
        let ready = greeting(r#"{"ready":"dpdk 22.11.7","works":[]}"#).unwrap();
        assert!(matches!(ready, Greeting::Ready { works, cannot, .. } if works.is_empty() && cannot.is_empty()));
        let skip = greeting(r#"{"skip":"no huge pages; get some"}"#).unwrap();
        assert_eq!(skip, Greeting::Skip("no huge pages; get some".into()));
        for rubbish in ["", "EAL: Detected CPU lcores: 2", "[1]", r#"{"ready":"x"}"#, r#"{"works":[]}"#] {
            assert!(greeting(rubbish).is_err(), "{rubbish}");
        }
    }

    #[test]
    fn answers() {
        let line = r#"{"work":"tx60","ns":7000,"frames":32,"bytes":1920,"descriptors":32,"reports":1,"doorbells":1,"header":60}"#;
        let read = answer(line, "tx60").unwrap();
        assert_eq!((read.ns, read.frames, read.bytes, read.reports), (7000, 32, 1920, 1));
        assert_eq!((read.number("header"), read.number("copied")), (Some(60), None));
        let few = answer(r#"{"work":"hold","ns":1,"frames":2}"#, "hold").unwrap();
        assert_eq!((few.bytes, few.descriptors), (0, 0));
        assert_eq!(answer(r#"{"error":"ring too large"}"#, "tx60"), Err(Wrong::Said("ring too large".into())));
        for rubbish in ["", "{", r#"{"work":"tx60"}"#, r#"{"work":"tx60","ns":-1,"frames":2}"#, line] {
            assert!(matches!(answer(rubbish, "rx60"), Err(Wrong::Rubbish(_))), "{rubbish}");
        }
        let long = "x".repeat(5000);
        let Err(Wrong::Rubbish(why)) = answer(&long, "tx60") else { panic!("rubbish was taken") };
        assert!(why.len() < 300 && why.contains("..."), "{why}");
    }
}
