//! The figures as bars. An SVG of our own: it follows the reader's light or dark theme, which libraries for plots do not.

use std::fmt::Write;

use super::rounds::Race;
use super::statistics::{Figure, three_digits};
use super::table::escaped;
use super::works::{LARGE_BOTH, LARGE_CACHE, RINGS, Unit, Who};

/// Bars of one scale.
struct Panel {
    unit: Unit,
    groups: &'static [Group],
}

struct Group {
    title: &'static str,
    bars: &'static [(Who, &'static str)],
}

const PANELS: [Panel; 3] = [
    Panel {
        unit: Unit::Frame,
        groups: &[
            Group {
                title: "transmit 60 B",
                bars: &[(Who::Ours, "tx60"), (Who::Dpdk, "tx60"), (Who::Dpdk, "tx60-full")],
            },
            Group {
                title: "transmit 54 B header + 1460 B page, checksums",
                bars: &[(Who::Ours, "tx-page"), (Who::Ours, "tx-page-each"), (Who::Dpdk, "tx-page")],
            },
            Group {
                title: "receive 60 B",
                bars: &[(Who::Ours, "rx60"), (Who::Dpdk, "rx60"), (Who::Dpdk, "rx60-scatter")],
            },
            Group {
                title: "header + page, as rings and the cache grow",
                bars: &[
                    (Who::Ours, RINGS[0]),
                    (Who::Ours, RINGS[1]),
                    (Who::Ours, RINGS[2]),
                    (Who::Ours, RINGS[3]),
                    (Who::Ours, RINGS[4]),
                    (Who::Ours, LARGE_CACHE),
                    (Who::Ours, LARGE_BOTH),
                ],
            },
        ],
    },
    Panel {
        unit: Unit::Page,
        groups: &[Group {
            title: "hold and release",
            bars: &[(Who::Ours, "atomics"), (Who::Ours, "hold"), (Who::Ours, "hold-run")],
        }],
    },
    Panel {
        unit: Unit::Kib,
        groups: &[Group {
            title: "processor time of the sender",
            bars: &[
                (Who::Ours, "sender"),
                (Who::Ours, "sender-digest"),
                (Who::Ours, "sender-segmented"),
                (Who::Kernel, "zerocopy-gso"),
                (Who::Kernel, "sendfile"),
                (Who::Kernel, "sendfile-mtu"),
                (Who::Kernel, "write"),
                (Who::Kernel, "read-write"),
            ],
        }],
    },
];

// All in pixels.
const WIDTH: f64 = 820.0;
/// Where bars begin.
const LEFT: f64 = 270.0;
/// What bars may take; their numbers come after them.
const BAR: f64 = 440.0;
const LINE: f64 = 22.0;
const THICK: f64 = 14.0;
const MARGIN: f64 = 20.0;

const TITLE: &str = "stillwire race: what a frame costs one core";
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#0b0b0b}.title{font-size:16px;font-weight:600}.group{font-weight:600}\
.quiet{fill:#52514e}.paper{fill:#fcfcfb}.ours{fill:#2a78d6}.dpdk{fill:#d9652f}.kernel{fill:#178f65}\
.median{stroke:#52514e;stroke-width:1.5;fill:none}.rule{stroke:#d5d4cf;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#fff}.quiet{fill:#c3c2b7}.paper{fill:#1a1a19}.ours{fill:#4a93ea}\
.dpdk{fill:#e0713f}.kernel{fill:#2bab7d}.median{stroke:#c3c2b7}.rule{stroke:#3f3e3b}}";

/// All panels, one below the other; `under` is said below the title.
pub fn svg(race: &Race, under: &str) -> String {
    let mut body = String::new();
    let mut y = MARGIN + 8.0;
    text(&mut body, MARGIN, y, "title", TITLE);
    y += LINE;
    text(&mut body, MARGIN, y, "quiet", under);
    y += LINE;
    text(
        &mut body,
        MARGIN,
        y,
        "quiet",
        "Bars end at the minimum of all rounds, lines at the median. Shorter is better.",
    );
    for panel in &PANELS {
        y += LINE * 1.6;
        y = panel.draw(race, &mut body, y);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>{TITLE}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{body}</svg>\n"
    )
}

impl Panel {
    /// Draws below `y`, and returns where it ends.
    fn draw(&self, race: &Race, body: &mut String, mut y: f64) -> f64 {
        let bars = || self.groups.iter().flat_map(|group| group.bars);
        let figures = bars().filter_map(|(who, name)| figure(race, *who, name).ok());
        let most = figures.map(|figure| figure.median).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let unit = self.unit.name();
        text(body, MARGIN, y, "quiet", unit);
        let top = y + 6.0;
        let lines = ticks(most);
        for tick in &lines {
            text(body, LEFT + tick / most * BAR, y, "quiet", &label(*tick));
        }
        let mut drawn = String::new();
        for group in self.groups {
            y += LINE * 1.2;
            text(&mut drawn, MARGIN, y, "group", group.title);
            for (who, name) in group.bars {
                y += LINE;
                bar(&mut drawn, y, *who, name, figure(race, *who, name), BAR / most);
            }
        }
        for tick in lines {
            let x = LEFT + tick / most * BAR;
            let _ = writeln!(body, "<path class=\"rule\" d=\"M{x:.1} {top:.1}V{:.1}\"/>", y + 6.0);
        }
        body.push_str(&drawn);
        y
    }
}

fn bar(body: &mut String, y: f64, who: Who, name: &str, figure: Result<Figure, String>, scale: f64) {
    text(body, MARGIN, y, "", &format!("{} {name}", who.name()));
    let Figure { min, median } = match figure {
        Ok(figure) => figure,
        Err(why) => return text(body, LEFT, y, "quiet", &format!("none: {}", shortened(&why))),
    };
    let (length, end, class, top) = (min * scale, LEFT + median * scale, who.file(), y - THICK + 3.0);
    let middle = top + THICK / 2.0;
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{THICK}\" rx=\"2\"/>\n\
         <path class=\"median\" d=\"M{:.1} {middle:.1}H{end:.1}M{end:.1} {:.1}v8\"/>",
        LEFT + length,
        middle - 4.0
    );
    text(body, end + 8.0, y, "", &format!("{} / {}", three_digits(min), three_digits(median)));
}

fn text(body: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", escaped(words));
}

fn figure(race: &Race, who: Who, name: &str) -> Result<Figure, String> {
    race.find(who, name)?.figure().ok_or_else(|| "no round was run".into())
}

/// Round numbers from zero up to `most`, at most five of them.
fn ticks(most: f64) -> Vec<f64> {
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 5.0);
    let step = step.unwrap_or(most);
    (0..=5).map(|i| f64::from(i) * step).take_while(|tick| *tick <= most).collect()
}

/// Without the digits that binary fractions leave behind.
fn label(tick: f64) -> String {
    ((tick * 1000.0).round() / 1000.0).to_string()
}

/// As much as fits beside a bar's name.
fn shortened(why: &str) -> String {
    let short: String = why.chars().take(70).collect();
    if short.len() < why.len() { format!("{short}...") } else { short }
}

#[cfg(test)]
mod tests {
    use super::super::goals::tests::race;
    use super::super::rounds::Without;
    use super::*;

    #[test]
    fn every_bar_is_drawn_to_its_scale() {
        let svg = svg(&race(10.0, &[(Who::Dpdk, "tx-page", 20.0)]), "a & b");
        let bars: usize = PANELS.iter().flat_map(|panel| panel.groups).map(|group| group.bars.len()).sum();
        assert_eq!(svg.matches("<rect class=\"").count(), bars + 1);
        // The longest median fills what bars may take; a minimum is half of its median there.
        assert!(svg.contains(&format!("H{:.1}M", LEFT + BAR)) && svg.contains("width=\"220.0\""), "{svg}");
        assert!(svg.contains("20.0 / 40.0") && svg.contains("a &amp; b") && svg.contains("ns a KiB"));
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn what_is_missing_says_so_in_its_place() {
        let mut race = race(10.0, &[]);
        race.without(Who::Dpdk, &Without::LeftOut("no <huge> pages".into()));
        let svg = svg(&race, "");
        assert_eq!(svg.matches("none: no &lt;huge&gt; pages").count(), 5);
        race.series.clear();
        assert!(super::svg(&race, "").contains("none: "));
    }

    #[test]
    fn every_bar_is_asked_for_in_its_unit() {
        let race = race(1.0, &[]);
        for panel in &PANELS {
            for (who, name) in panel.groups.iter().flat_map(|group| group.bars) {
                assert_eq!(race.find(*who, name).map(|series| series.ask.unit), Ok(panel.unit), "{name}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(37.0), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(ticks(9.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(450.0), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(ticks(0.35).into_iter().map(label).collect::<Vec<_>>(), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!([0.0, 50.0, 100.0].map(label), ["0", "50", "100"]);
    }
}
