//! What docs/decisions.md is made of. Each table names its cells; several may name the same, which are run once.

pub mod alpha;
pub mod clearing;
pub mod delay;
pub mod endpoints;
pub mod false_triggers;
pub mod late;
pub mod reach;
pub mod seconds;

use crate::deploy::Deploy;
use crate::pool::{Cell, Results};
use crate::statistics::{Quantile, Share};

/// How much is run: all of it, or one run in twenty.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub quick: bool,
    /// Otherwise so many times the usual number.
    pub times: u64,
}

impl Scale {
    pub fn runs(self, all: u64) -> u64 {
        if self.quick { (all / 20).max(10).min(all) } else { all * self.times }
    }
}

/// One picture: its name without ending, and the SVG.
pub type Picture = (&'static str, String);

/// A rendered table: Markdown and pictures.
#[derive(Default)]
pub struct Section {
    pub text: String,
    pub pictures: Vec<Picture>,
}

pub struct Table {
    pub name: &'static str,
    pub title: &'static str,
    pub cells: fn(Scale) -> Vec<Cell>,
    pub render: fn(&Results, u64) -> anyhow::Result<Section>,
}

/// In the order of the document.
pub const TABLES: [Table; 8] = [
    reach::TABLE,
    false_triggers::TABLE,
    delay::TABLE,
    seconds::TABLE,
    late::TABLE,
    endpoints::TABLE,
    clearing::TABLE,
    alpha::TABLE,
];

/// `requests`: what a run takes, about.
pub fn cell(label: String, runs: u64, requests: f64, deploy: Deploy) -> Cell {
    let cost = requests * (2.0 + deploy.rules.len() as f64);
    Cell { label, runs, cost, run: Box::new(move |rng| deploy.run(rng)) }
}

/// Requests until the rule of this index triggered, run by run; infinite where it did not.
pub fn requests(results: &Results, label: &str, rule: usize) -> Vec<f64> {
    let figure = |run: &Vec<Option<crate::deploy::Trigger>>| {
        run[rule].map_or(f64::INFINITY, |trigger| trigger.requests as f64)
    };
    results[label].iter().map(figure).collect()
}

/// The same in seconds.
pub fn times(results: &Results, label: &str, rule: usize) -> Vec<f64> {
    results[label].iter().map(|run| run[rule].map_or(f64::INFINITY, |trigger| trigger.seconds)).collect()
}

/// How many runs triggered.
pub fn triggered(results: &Results, label: &str, rule: usize) -> Share {
    let runs = &results[label];
    let count = runs.iter().filter(|run| run[rule].is_some()).count();
    Share::new(count as u64, runs.len() as u64)
}

/// "117 / 226".
pub fn median_and_p95(runs: &[f64]) -> String {
    format!("{} / {}", figure(Quantile::of(runs, 0.5).value), figure(Quantile::of(runs, 0.95).value))
}

/// Two digits at least; "never" when most runs did not get there.
pub fn figure(value: f64) -> String {
    match value {
        value if value.is_infinite() => "never".into(),
        value if value >= 9.95 || (value - value.round()).abs() < 1e-9 => format!("{value:.0}"),
        value if value >= 0.995 => format!("{value:.1}"),
        value if value >= 0.0995 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// A share in percent with what it can be.
pub fn percent(share: Share) -> String {
    let digits = |percent: f64| match percent {
        percent if percent >= 9.95 => format!("{percent:.0}"),
        percent if percent >= 0.995 => format!("{percent:.1}"),
        percent if percent >= 0.0995 => format!("{percent:.2}"),
        percent => format!("{percent:.3}"),
    };
    let (low, high) = (100.0 * share.low, 100.0 * share.high);
    match share.count {
        0 => format!("0 (< {} %)", digits(high)),
        count if count == share.of => format!("100 % (> {} %)", digits(low)),
        _ => format!("{} % ({} to {})", digits(100.0 * share.share()), digits(low), digits(high)),
    }
}

/// A Markdown table; the first column is text, the others are figures.
pub fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: Vec<String> =
        (0..head.len()).map(|i| if i == 0 { "---".into() } else { "---:".into() }).collect();
    let mut text =
        line(head) + &line(&rule).replace("| ---", "|---").replace(": |", ":|").replace("- |", "-|");
    for row in rows {
        text += &line(row);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = markdown(&row(["rule", "0.1"]), &[row(["pooled", "0"])]);
        assert_eq!(text, "| rule | 0.1 |\n|---|---:|\n| pooled | 0 |\n");
    }

    #[test]
    fn figures_are_as_long_as_they_are_sure() {
        let said: Vec<String> = [7.0, 11.4, 1.24, 0.071, f64::INFINITY].map(figure).to_vec();
        assert_eq!(said, ["7", "11", "1.2", "0.071", "never"]);
        assert_eq!(percent(Share::new(0, 3000)), "0 (< 0.12 %)");
        assert_eq!(percent(Share::new(20, 20)), "100 % (> 83 %)");
    }

    #[test]
    fn every_table_names_cells_of_its_own_kind_and_no_two_cells_differ_under_one_label() {
        let mut runs = std::collections::BTreeMap::new();
        for table in &TABLES {
            for cell in (table.cells)(Scale { quick: false, times: 1 }) {
                let before = runs.insert(cell.label.clone(), cell.runs);
                assert!(before.is_none_or(|before| before == cell.runs), "{}", cell.label);
            }
        }
    }
}
