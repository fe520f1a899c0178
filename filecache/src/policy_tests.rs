//! The policy by example, and against a reference that keeps plain lists.

use std::collections::{HashMap, HashSet};

use super::*;
use proptest::prelude::*;

/// Answers of `look` by id; idle where nothing is said. `Used` is cleared as it is reported. And the number of looks, so
/// that looking without end is a failure and not a wait.
#[derive(Clone, Default)]
struct Uses(HashMap<u32, Look>, usize);

impl Uses {
    fn of(ids: impl IntoIterator<Item = u32>, look: Look) -> Self {
        Self(ids.into_iter().map(|id| (id, look)).collect(), 0)
    }

    fn look(&mut self, id: u32) -> Look {
        self.1 += 1;
        assert!(self.1 < 100_000, "no end of looks");
        match self.0.get(&id) {
            Some(Look::Used) => self.0.remove(&id).unwrap(),
            Some(&look) => look,
            None => Look::Idle,
        }
    }
}

fn name(id: u32) -> Ghost {
    (1, u64::from(id))
}

/// Residents of weight 1 in small.
fn policy_of(capacity: u64, ids: impl IntoIterator<Item = u32>) -> Policy {
    let mut policy = Policy::new(capacity);
    ids.into_iter().for_each(|id| policy.insert(id, name(id), 1));
    policy
}

/// All of the queue, head first, by the links in both directions.
fn ids(policy: &mut Policy, place: Place) -> Vec<u32> {
    let (mut at, mut before, mut ids) = (policy.queue(place).head, NONE, Vec::new());
    while at != NONE {
        let entry = *policy.entry(at);
        assert_eq!((entry.before, entry.place), (before, place));
        ids.push(at);
        (before, at) = (at, entry.after);
    }
    assert_eq!((policy.queue(place).tail, policy.queue(place).entries), (before, ids.len()));
    ids
}

#[test]
fn idle_leaves_small_in_order_and_is_recognised() {
    let mut policy = policy_of(100, 0..20);
    assert_eq!(policy.evict(|_| Look::Idle), Some(0));
    assert_eq!(policy.evict(|_| Look::Idle), Some(1));
    // Another folio at the same place of the arena; then the first one's bytes come back elsewhere.
    policy.insert(0, name(50), 1);
    policy.insert(1, name(0), 4);
    assert_eq!((policy.entry(0).place, policy.entry(1).place), (Place::Small, Place::Main));
    assert_eq!(policy.resident(), 18 + 1 + 4);
    policy.remove(1);
    policy.insert(1, name(0), 4);
    assert_eq!(policy.entry(1).place, Place::Small, "recognised once");
}

#[test]
fn what_is_used_in_small_moves_to_main_and_is_spared_there_while_it_is_used() {
    let mut policy = policy_of(100, 0..20);
    let mut uses = Uses::of(0..10, Look::Used);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(0), "small is at its share, and main's oldest is idle by now");
    assert_eq!(ids(&mut policy, Place::Main), (1..10).collect::<Vec<_>>());
    uses = Uses::of([1, 2], Look::Used);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(3));
    assert_eq!(ids(&mut policy, Place::Main), [4, 5, 6, 7, 8, 9, 1, 2]);
    policy.insert(3, name(3), 1);
    assert_eq!(policy.entry(3).place, Place::Small, "main leaves no ghosts");
}

#[test]
fn a_scan_passes_main_by() {
    let mut policy = policy_of(100, 0..100);
    let mut uses = Uses::of(0..90, Look::Used);
    // One round by way of small: 0..90 move to main.
    assert_eq!(policy.evict(|id| uses.look(id)), Some(0));
    let mut free = 0;
    for scanned in 0..1000 {
        policy.insert(free, (2, scanned), 1);
        free = policy.evict(|_| Look::Idle).unwrap();
        assert!(free == 0 || free >= 90, "the scan pushed out {free}");
    }
    assert_eq!(ids(&mut policy, Place::Main), (1..90).collect::<Vec<_>>());
}

#[test]
fn pinned_entries_stay_where_they_are_wanted() {
    let mut policy = policy_of(10, 0..5);
    let mut uses = Uses::of([0, 1], Look::Pinned);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(2));
    assert_eq!(ids(&mut policy, Place::Small), [3, 4, 0, 1]);
    let mut looks = 0;
    let pinned = |_| {
        looks += 1;
        assert!(looks <= 3 * 4, "no end");
        Look::Pinned
    };
    assert_eq!(policy.evict(pinned), None);
    assert_eq!(ids(&mut policy, Place::Small), [3, 4, 0, 1]);
}

#[test]
fn when_main_is_pinned_small_gives_from_its_share() {
    let mut policy = policy_of(100, 0..5);
    let mut uses = Uses::of([0], Look::Used);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(1), "within its share, but main is empty");
    uses = Uses::of([0], Look::Pinned);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(2));
}

#[test]
fn a_victim_that_is_put_back_was_never_away() {
    let mut policy = policy_of(10, 0..4);
    assert_eq!(policy.evict(|_| Look::Idle), Some(0));
    policy.put_back(0, name(0), 1);
    assert_eq!(ids(&mut policy, Place::Small), [1, 2, 3, 0]);
    assert_eq!(policy.ghosts.weight, 0);
    // 1 to main, 2 evicted, 2 recognised: in main.
    let mut uses = Uses::of([1], Look::Used);
    assert_eq!(policy.evict(|id| uses.look(id)), Some(2));
    policy.insert(2, name(2), 1);
    policy.remove(3);
    assert_eq!(policy.evict(|_| Look::Idle), Some(1));
    policy.put_back(1, name(1), 1);
    assert_eq!((ids(&mut policy, Place::Main), ids(&mut policy, Place::Small)), (vec![2, 1], vec![0]));
}

#[test]
fn something_goes_even_when_all_is_used_without_pause() {
    let mut policy = policy_of(40, 0..40);
    let mut looks = HashMap::new();
    let victim = policy.evict(|id| {
        let looks = looks.entry(id).or_insert(0);
        *looks += 1;
        assert!(*looks <= 3, "{id} is looked at again and again");
        Look::Used
    });
    assert!(victim.is_some());
}

#[test]
fn ghosts_are_bounded_by_weight_and_the_oldest_goes() {
    let mut ghosts = Ghosts::new(1000);
    for age in 0..10_000 {
        ghosts.remember((1, age), 100);
    }
    assert_eq!((ghosts.by_age.len(), ghosts.age_of.len(), ghosts.weight), (10, 10, 1000));
    assert!(!ghosts.take((1, 9989)) && ghosts.take((1, 9990)));
    // The same name again is one ghost, and the youngest.
    ghosts.remember((1, 9991), 300);
    assert_eq!((ghosts.take((1, 9992)), ghosts.take((1, 9993)), ghosts.take((1, 9991))), (false, true, true));
    assert_eq!(ghosts.weight, 600);
    ghosts.remember((2, 0), 1001);
    assert!(ghosts.by_age.is_empty() && ghosts.age_of.is_empty() && ghosts.weight == 0);
}

/// The same rules over plain lists.
#[derive(Default)]
struct Naive {
    small: Vec<(u32, Ghost, u32)>,
    main: Vec<(u32, Ghost, u32)>,
    ghosts: Vec<(Ghost, u32)>,
    share: u64,
    most: u64,
}

impl Naive {
    fn was_ghost(&mut self, name: Ghost) -> bool {
        let before = self.ghosts.len();
        self.ghosts.retain(|ghost| ghost.0 != name);
        before != self.ghosts.len()
    }

    fn remove(&mut self, id: u32) {
        self.small.retain(|entry| entry.0 != id);
        self.main.retain(|entry| entry.0 != id);
    }

    fn evict(&mut self, uses: &mut Uses) -> Option<u32> {
        let weight = |list: &[(u32, Ghost, u32)]| list.iter().map(|entry| u64::from(entry.2)).sum::<u64>();
        for spares in [true, false] {
            let mut small: HashSet<u32> = self.small.iter().map(|entry| entry.0).collect();
            let mut main: Option<HashSet<u32>> = None;
            // While there is somebody who was not looked at in this round.
            loop {
                let over = weight(&self.small) > self.share && main.is_none() && !small.is_empty();
                let left =
                    if over { None } else { Some(main.get_or_insert_with(|| self.main.iter().map(|e| e.0).collect())) };
                let from_main = left.is_some_and(|left| !left.is_empty());
                if !from_main && small.is_empty() {
                    break;
                }
                let entry = if from_main { self.main.remove(0) } else { self.small.remove(0) };
                small.remove(&entry.0);
                main.as_mut().map(|main| main.remove(&entry.0));
                match uses.look(entry.0) {
                    Look::Pinned if from_main => self.main.push(entry),
                    Look::Pinned => self.small.push(entry),
                    Look::Used if spares => self.main.push(entry),
                    _ => {
                        if !from_main {
                            self.ghosts.push((entry.1, entry.2));
                            while self.ghosts.iter().map(|ghost| u64::from(ghost.1)).sum::<u64>() > self.most {
                                self.ghosts.remove(0);
                            }
                        }
                        return Some(entry.0);
                    }
                }
            }
        }
        None
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert { id: u32, page: u64, order: u8 },
    Remove(u32),
    Evict,
    EvictAndPutBack,
    Say(u32, Look),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..24u32;
    let look = prop_oneof![4 => Just(Look::Used), 1 => Just(Look::Pinned), 3 => Just(Look::Idle)];
    prop_oneof![
        4 => (id.clone(), 0..40u64, 0..10u8).prop_map(|(id, page, order)| Step::Insert { id, page, order }),
        1 => id.clone().prop_map(Step::Remove),
        3 => Just(Step::Evict),
        1 => Just(Step::EvictAndPutBack),
        6 => (id, look).prop_map(|(id, look)| Step::Say(id, look)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, ..ProptestConfig::default() })]

    /// The same victims in the same order as plain lists give; no id lost, none twice, weights add up; nothing is left
    /// behind by what goes; refused only when all is pinned.
    #[test]
    fn behaves_like_plain_lists(capacity in 1u64..3000, steps in proptest::collection::vec(step(), 1..200)) {
        let mut policy = Policy::new(capacity);
        let share = (capacity / 10).max(1);
        let mut naive = Naive { share, most: capacity.saturating_sub(share), ..Naive::default() };
        let mut uses = Uses::default();
        let mut cached: HashMap<u32, (Ghost, u32)> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert { id, page, order } => {
                    // A cache has a page of a file once.
                    if cached.values().any(|&(name, _)| name == (7, page)) {
                        continue;
                    }
                    let entry = (id, (7, page), 1 << order);
                    naive.remove(id);
                    if naive.was_ghost(entry.1) { naive.main.push(entry) } else { naive.small.push(entry) }
                    policy.insert(id, entry.1, entry.2);
                    cached.insert(id, (entry.1, entry.2));
                }
                Step::Remove(id) => {
                    cached.remove(&id);
                    naive.remove(id);
                    policy.remove(id);
                }
                Step::Evict | Step::EvictAndPutBack => {
                    let mut same = uses.clone();
                    let mut looks: HashMap<u32, u32> = HashMap::new();
                    let victim = policy.evict(|id| {
                        let looks = looks.entry(id).or_default();
                        *looks += 1;
                        assert!(*looks <= 3, "{id} is looked at again and again");
                        uses.look(id)
                    });
                    prop_assert_eq!(victim, naive.evict(&mut same));
                    let Some(victim) = victim else {
                        prop_assert!(cached.keys().all(|&id| uses.look(id) == Look::Pinned));
                        continue;
                    };
                    let (name, weight) = cached.remove(&victim).expect("a victim was resident");
                    if matches!(step, Step::EvictAndPutBack) {
                        policy.put_back(victim, name, weight);
                        let list = if naive.was_ghost(name) { &mut naive.small } else { &mut naive.main };
                        list.push((victim, name, weight));
                        cached.insert(victim, (name, weight));
                    }
                }
                Step::Say(id, look) => {
                    uses.0.insert(id, look);
                }
            }
            prop_assert_eq!(policy.resident(), cached.values().map(|&(_, weight)| u64::from(weight)).sum::<u64>());
            let plain = |list: &[(u32, Ghost, u32)]| list.iter().map(|entry| entry.0).collect::<Vec<_>>();
            prop_assert_eq!(ids(&mut policy, Place::Small), plain(&naive.small));
            prop_assert_eq!(ids(&mut policy, Place::Main), plain(&naive.main));
            prop_assert_eq!(policy.small.entries + policy.main.entries, cached.len());
            prop_assert_eq!(policy.entries.iter().flatten().count(), cached.len());
            prop_assert!(policy.ghosts.weight <= naive.most);
            prop_assert_eq!(policy.ghosts.by_age.values().copied().collect::<Vec<_>>(), naive.ghosts.clone());
            prop_assert_eq!(policy.ghosts.age_of.len(), naive.ghosts.len());
        }
        // Everybody goes in the end, each once.
        let left: HashSet<u32> = std::iter::from_fn(|| policy.evict(|_| Look::Idle)).collect();
        prop_assert_eq!(left, cached.into_keys().collect::<HashSet<_>>());
        prop_assert_eq!(policy.resident(), 0);
    }
}
