//! What the simulation and the hostile inputs say of themselves, for the document.

use std::fmt::Write;

use serde_json::Value;

use crate::document::with_spaces;

/// The seeds, what went wrong in them, and the mistakes that were found.
pub fn simulation(figures: &Value, mistakes: &Value) -> String {
    let number = |name: &str| with_spaces(figures[name].as_u64().unwrap_or(0));
    let mut text = String::new();
    let _ = writeln!(text, "\n## {} seeds\n", number("seeds"));
    let _ = writeln!(text, "`cargo xtask simulate --seeds {}`\n", figures["seeds"]);
    text.push_str(SIMULATION);
    let _ = writeln!(
        text,
        "{} steps, {} violations.\n\n| done | times |\n|---|---:|",
        number("steps"),
        number("violations")
    );
    for (name, count) in figures["counts"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "| {} | {} |", name.replace('_', " "), with_spaces(count.as_u64().unwrap_or(0)));
    }
    let outcome = if figures["violations"] == 0 { "nothing violated" } else { "**see above**" };
    text.push_str("\n| fault | times | in seeds | outcome |\n|---|---:|---:|---|\n");
    for fault in figures["faults"].as_array().into_iter().flatten() {
        let count = |name: &str| with_spaces(fault[name].as_u64().unwrap_or(0));
        let name = fault["fault"].as_str().unwrap_or("?");
        let _ = writeln!(text, "| {name} | {} | {} | {outcome} |", count("times"), count("seeds"));
    }
    text.push_str("\nMistakes put in on purpose (`cargo xtask simulate --bug all`), and what the first seed that found each said:\n\n");
    text.push_str("| mistake | found by seed | said |\n|---|---:|---|\n");
    for mistake in mistakes["mistakes"].as_array().into_iter().flatten() {
        let said: String = mistake["said"].as_str().unwrap_or("").chars().take(90).collect();
        let seed = mistake["found_by"].as_u64().map_or("**not found**".into(), |seed| seed.to_string());
        let _ =
            writeln!(text, "| {} | {seed} | {} |", mistake["mistake"].as_str().unwrap_or("?"), said.replace('|', "/"));
    }
    text
}

/// The targets.
pub fn fuzz(figures: &Value) -> String {
    let mut text = String::from("\n## Hostile inputs\n\n`cargo xtask fuzz`, on stable Rust:\n\n");
    text.push_str("| target | what it is fed | executions | outcome |\n|---|---|---:|---|\n");
    for target in figures["targets"].as_array().into_iter().flatten() {
        let word = |name: &str| target[name].as_str().unwrap_or("?");
        let executions = with_spaces(target["executions"].as_u64().unwrap_or(0));
        let _ = writeln!(text, "| {} | {} | {executions} | {} |", word("target"), word("what"), word("outcome"));
    }
    text
}

const SIMULATION: &str = "\
Each seed is a run of cache, guard, workers, flusher, disk, writers, holders, sender, a NIC of one of the three families, its bus, the wire
and the far end, in one thread, whose scheduler decides by the seed who goes on at every atomic operation and every lock. After every
step: no store in a held page; no fewer holds counted than there are; no read by an honest device of what no token keeps for it, and no
write to the cache at all; what leaves the NIC is what was held; a hold shows every store that had returned; what `sync` answered for
is on the disk; every token comes back once; everybody gets on. A device that lies is asked for less: nothing of ours may break.
";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_violated_or_not_found_is_said() {
        let fault = json!({ "fault": "the card is pulled", "times": 1200, "seeds": 7 });
        let mut figures =
            json!({ "seeds": 10000, "steps": 5, "violations": 0, "counts": { "holds": 3 }, "faults": [fault] });
        let mistakes = json!({ "mistakes": [
            { "mistake": "lost-wake", "found_by": 0, "said": "nobody | can go on" },
            { "mistake": "other", "found_by": null, "said": null },
        ] });
        let text = simulation(&figures, &mistakes);
        for part in [
            "## 10 000 seeds",
            "| the card is pulled | 1 200 | 7 | nothing violated |",
            "| lost-wake | 0 | nobody / can go on |",
            "| other | **not found** |  |",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        figures["violations"] = json!(1);
        assert!(simulation(&figures, &mistakes).contains("| 7 | **see above** |"));
        let target = json!({ "target": "packet", "what": "frames", "executions": 1234, "outcome": "held" });
        assert!(fuzz(&json!({ "targets": [target] })).contains("| packet | frames | 1 234 | held |"));
    }
}
