//! What a scrape of the agent said.

/// An exposition in the Prometheus text format.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of the points of a metric that have these labels; `None`: there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (of, set) = series.split_once('{').unwrap_or((series, ""));
            let fits = of == name && labels.iter().all(|label| has(set.trim_end_matches('}'), label));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Every point of a counter (or of a histogram's parts), by its name with labels.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        const ENDINGS: [&str; 4] = ["_total", "_bucket", "_count", "_sum"];
        self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let value = value.parse().ok()?;
            ENDINGS.iter().any(|ending| name.ends_with(ending)).then_some((series, value))
        })
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Values in these tests hold neither commas nor quotation marks.
fn has(set: &str, label: &str) -> bool {
    set.split(',').any(|own| own == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_found_by_name_and_labels() {
        let metrics = Metrics::new(
            "# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"11\",y=\"2\"} 4\nb 5\n"
                .to_owned(),
        );
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), Some(3.0));
        assert_eq!(metrics.sum("a_total", &[("y", "2")]), Some(7.0));
        assert_eq!(metrics.sum("a_total", &[("y", "3")]), None);
        assert_eq!(metrics.sum("b", &[]), Some(5.0));
        assert_eq!(metrics.counters().count(), 2);
    }
}
