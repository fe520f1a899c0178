//! Rounds in which everybody does everything once, so that what disturbs the machine disturbs all alike.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::Answer;
use super::contestant::{Contestant, Failed};
use super::statistics::Figure;
use super::works::{Ask, Who};

/// One work of one contestant over all rounds.
pub struct Series {
    pub ask: Ask,
    /// Of each round that counted.
    pub answers: Vec<Answer>,
    /// Why there is no figure.
    pub without: Option<Without>,
    /// A frame or page, by callgrind.
    pub instructions: Option<f64>,
}

/// Why a work has no figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Without {
    /// It was not asked for: the machine or the contestant lacks something.
    #[serde(rename = "left out")]
    LeftOut(String),
    #[serde(rename = "failed")]
    Failed(String),
}

impl Without {
    pub fn why(&self) -> &str {
        let (Self::LeftOut(why) | Self::Failed(why)) = self;
        why
    }
}

/// The contestants that are there, and what they have shown so far.
pub struct Race {
    pub contestants: BTreeMap<Who, Contestant>,
    pub series: Vec<Series>,
}

impl Race {
    /// One round; `counts` unless it only warms caches and clocks up.
    pub fn round(&mut self, number: usize, counts: bool) {
        for at in order(number, self.series.len()) {
            if self.series[at].without.is_none() {
                self.ask(at, counts);
            }
        }
    }

    fn ask(&mut self, at: usize, counts: bool) {
        let ask = &self.series[at].ask;
        let who = ask.who;
        let Some(contestant) = self.contestants.get_mut(&who) else { return };
        let answer = contestant.run(ask.work, &ask.line());
        match answer.and_then(|answer| ask.check(&answer).map(|()| answer).map_err(Failed::Work)) {
            Ok(answer) if counts => self.series[at].answers.push(answer),
            Ok(_) => {}
            Err(Failed::Work(why)) => self.series[at].without = Some(Without::Failed(why)),
            Err(Failed::Gone(why)) => {
                self.contestants.remove(&who);
                self.without(who, &Without::Failed(why));
            }
        }
    }

    /// Takes a contestant in, which offers `works`, and says why it `cannot` do others.
    pub fn enter(&mut self, who: Who, contestant: Contestant, works: &[String], cannot: &BTreeMap<String, String>) {
        for series in self.series.iter_mut().filter(|series| series.ask.who == who && series.without.is_none()) {
            let work = series.ask.work;
            if !works.iter().any(|offered| offered == work) {
                let why = cannot.get(work).cloned().unwrap_or_else(|| format!("{} does not offer it", who.name()));
                series.without = Some(Without::LeftOut(why));
            }
        }
        self.contestants.insert(who, contestant);
    }

    /// Notes that nothing (more) can be had of a contestant.
    pub fn without(&mut self, who: Who, without: &Without) {
        let its = self.series.iter_mut().filter(|series| series.ask.who == who && series.without.is_none());
        its.for_each(|series| series.without = Some(without.clone()));
    }

    /// What went wrong, as opposed to what was left out; works of one contestant and one reason together.
    pub fn failures(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<(Who, &str), Vec<&str>> = BTreeMap::new();
        for series in &self.series {
            if let Some(Without::Failed(why)) = &series.without {
                by_reason.entry((series.ask.who, why)).or_default().push(series.ask.name);
            }
        }
        let line =
            |((who, why), names): ((Who, &str), Vec<&str>)| format!("{} {}: {why}", who.name(), names.join(", "));
        by_reason.into_iter().map(line).collect()
    }

    /// The series of a contestant's work.
    ///
    /// # Errors
    /// Says why it shows no figure.
    pub fn find(&self, who: Who, name: &str) -> Result<&Series, String> {
        let found = self.series.iter().find(|series| series.ask.who == who && series.ask.name == name);
        let series = found.ok_or_else(|| format!("{} is not asked for {name}", who.name()))?;
        match &series.without {
            Some(without) => Err(without.why().to_owned()),
            None => Ok(series),
        }
    }
}

impl Series {
    pub fn new(ask: Ask) -> Self {
        Self { ask, answers: Vec::new(), without: None, instructions: None }
    }

    /// Of each round, in its unit.
    pub fn samples(&self) -> Vec<f64> {
        self.answers.iter().map(|answer| self.ask.figure(answer)).collect()
    }

    pub fn figure(&self) -> Option<Figure> {
        Figure::of(&self.samples())
    }
}

/// Who is asked when: each round begins elsewhere, and every other one goes backwards, so that of two neighbours each comes
/// first as often.
fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round % count.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::super::contestant::tests::{LONG, scripted};
    use super::super::works::{SMOKE, all};
    use super::*;

    #[test]
    fn each_round_asks_for_everything_once_and_begins_elsewhere() {
        let orders: Vec<Vec<usize>> = (0..7).map(|round| order(round, 7)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        let mut first: Vec<usize> = orders.iter().map(|order| order[0]).collect();
        first.sort_unstable();
        first.dedup();
        assert!(first.len() > 3, "{orders:?}");
        let forwards = |order: &[usize]| order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(forwards(&orders[0]) > 0 && forwards(&orders[1]) == 0, "{orders:?}");
        assert_eq!(order(3, 0), Vec::<usize>::new());
    }

    /// A race of one scripted contestant that is asked for two works.
    fn race(script: &str) -> Race {
        let ready = r#"echo '{"ready":"fake 1","works":["tx60","rx60"]}'; "#;
        let (contestant, _) = scripted(&format!("{ready}{script}"), LONG).unwrap();
        let asks = all(SMOKE).into_iter().filter(|ask| ask.who == Who::Dpdk && ["tx60", "rx60"].contains(&ask.name));
        Race { contestants: BTreeMap::from([(Who::Dpdk, contestant)]), series: asks.map(Series::new).collect() }
    }

    const TX: &str =
        r#"{"work":"tx60","ns":4096,"frames":2048,"bytes":122880,"descriptors":2048,"reports":64,"doorbells":64}"#;
    const RX: &str =
        r#"{"work":"rx60","ns":8192,"frames":2048,"bytes":122880,"descriptors":2048,"reports":2048,"doorbells":64}"#;

    fn answering(tx: &str, rx: &str) -> String {
        format!("while read -r run work rest; do case $work in tx60) echo '{tx}';; *) echo '{rx}';; esac; done")
    }

    #[test]
    fn rounds_that_warm_up_do_not_count() {
        let mut race = race(&answering(TX, RX));
        for number in 0..5 {
            race.round(number, number >= 2);
        }
        assert_eq!(race.find(Who::Dpdk, "tx60").unwrap().samples(), [2.0; 3]);
        assert_eq!(race.find(Who::Dpdk, "rx60").unwrap().figure(), Figure::of(&[4.0]));
        assert_eq!(race.failures(), Vec::<String>::new());
        assert!(race.find(Who::Ours, "tx60").is_err());
    }

    #[test]
    fn a_wrong_count_fails_that_work_alone() {
        let mut race = race(&answering(&TX.replace("122880", "122881"), RX));
        (0..3).for_each(|number| race.round(number, true));
        let failures = race.failures();
        assert!(failures.len() == 1 && failures[0].starts_with("DPDK tx60: tx60: the device counted 122881 bytes"));
        assert!(race.find(Who::Dpdk, "tx60").is_err());
        assert_eq!(race.find(Who::Dpdk, "rx60").unwrap().answers.len(), 3);
    }

    #[test]
    fn a_contestant_that_dies_takes_all_its_works_along() {
        let mut race = race(&format!("read -r line; echo '{TX}'; read -r line; echo 'no paper' >&2; exit 1"));
        (0..3).for_each(|number| race.round(number, true));
        assert!(race.contestants.is_empty());
        let failures = race.failures();
        assert!(failures.len() == 1 && failures[0].starts_with("DPDK tx60, rx60: it ended"), "{failures:?}");
        assert!(failures[0].contains("no paper"), "{failures:?}");
    }

    #[test]
    fn a_work_that_is_not_offered_is_left_out_with_the_reason() {
        let mut race = race("cat >/dev/null");
        let contestant = race.contestants.remove(&Who::Dpdk).unwrap();
        let cannot = BTreeMap::from([("rx60".to_owned(), "no ink".to_owned())]);
        race.enter(Who::Dpdk, contestant, &[], &cannot);
        assert_eq!(race.find(Who::Dpdk, "rx60").map(drop), Err("no ink".into()));
        assert_eq!(race.find(Who::Dpdk, "tx60").map(drop), Err("DPDK does not offer it".into()));
        assert!(race.contestants.contains_key(&Who::Dpdk) && race.failures().is_empty());
    }

    #[test]
    fn what_is_left_out_is_no_failure() {
        let mut race = race("cat >/dev/null");
        race.contestants.clear();
        race.without(Who::Dpdk, &Without::LeftOut("no huge pages".into()));
        race.round(0, true);
        assert_eq!(race.failures(), Vec::<String>::new());
        assert_eq!(race.find(Who::Dpdk, "tx60").map(drop), Err("no huge pages".into()));
    }
}
