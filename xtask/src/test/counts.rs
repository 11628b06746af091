//! What a stage found, and how it is read from the output of test programs.

use std::fmt;
use std::time::Duration;

/// The end of a test that could not run here: `SKIPPED: why`, on a line of its own.
const SKIPPED: &str = "SKIPPED: ";
/// What the harness says of a test that is marked `#[ignore = "a measurement, ..."]`: it checks nothing and is run by
/// hand, so it is not counted.
const MEASUREMENT: &str = "ignored, a measurement";
/// The same of one marked `#[ignore = "slow: ..."]`: it is for `--slow`, and told as such.
const SLOW: &str = "ignored, slow";
/// Tests that take less are not worth a line of their own.
const LONG: Duration = Duration::from_secs(10);
/// Lines of a stage's failures that are shown.
const SHOWN_LINES: usize = 200;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) skip_reasons: Vec<String>,
    /// Tests that only `--slow` runs.
    pub(crate) left: u64,
    /// Tests that failed, where they are known by name.
    pub(crate) failed_tests: Vec<FailedTest>,
    /// Of the passed, those that failed first.
    pub(crate) at_second_try: Vec<FailedTest>,
    /// Tests that took long, and how long. Where tests run side by side it is the time since the end of another one.
    pub(crate) long: Vec<(Duration, String)>,
    /// What to show of failures.
    pub(crate) failures: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedTest {
    pub(crate) program: String,
    pub(crate) test: String,
}

impl fmt::Display for FailedTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.program, self.test)
    }
}

impl Counts {
    pub(crate) fn one_passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    pub(crate) fn one_failed(why: String) -> Self {
        Self { failed: 1, failures: vec![why], ..Self::default() }
    }

    pub(crate) fn one_skipped(why: String) -> Self {
        Self { skipped: 1, skip_reasons: vec![why], ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.left += other.left;
        self.failed_tests.extend_from_slice(&other.failed_tests);
        self.at_second_try.extend_from_slice(&other.at_second_try);
        self.long.extend_from_slice(&other.long);
        self.skip_reasons.extend_from_slice(&other.skip_reasons);
        self.failures.extend_from_slice(&other.failures);
    }

    /// Takes the outcome of a second try of a test that failed.
    pub(crate) fn tried_again(&mut self, test: FailedTest, again: &Self) {
        if (again.passed, again.failed, again.skipped) == (1, 0, 0) {
            self.failed -= 1;
            self.passed += 1;
            self.at_second_try.push(test);
        } else {
            self.failures.extend_from_slice(&again.failures);
            self.failed_tests.push(test);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        if self.left > 0 {
            write!(f, ", {} left for --slow", self.left)?;
        }
        for test in &self.at_second_try {
            write!(f, "; only at the second try: {test}")?;
        }
        Ok(())
    }
}

/// Reads the output of one or more test programs of Rust's test harness, run with `--show-output`, line by line.
///
/// A test that prints `SKIPPED: why` counts as skipped, although the harness calls it passed.
#[derive(Default)]
pub(crate) struct Reader {
    counts: Counts,
    /// Skips of the test program whose result is still to come.
    skipped_here: u64,
    /// The same of measurements and slow ones.
    measurements_here: u64,
    in_failures: bool,
}

impl Reader {
    pub(crate) fn line(&mut self, program: &str, line: &str) {
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            let (program, test) = (program.to_owned(), test.to_owned());
            self.counts.failed_tests.push(FailedTest { program, test });
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_failures = false;
            self.counts.passed += number_before(result, "passed").saturating_sub(self.skipped_here);
            self.counts.skipped += std::mem::take(&mut self.skipped_here);
            self.counts.failed += number_before(result, "failed");
            let measurements = std::mem::take(&mut self.measurements_here);
            let ignored = number_before(result, "ignored").saturating_sub(measurements);
            if ignored > 0 {
                self.counts.skipped += ignored;
                self.counts.skip_reasons.push(format!("{ignored} marked #[ignore]"));
            }
        } else if line == "failures:" {
            self.in_failures = true;
        } else if line.starts_with("test ") && line.contains(MEASUREMENT) {
            self.measurements_here += 1;
        } else if line.starts_with("test ") && line.contains(SLOW) {
            self.measurements_here += 1;
            self.counts.left += 1;
        } else if let Some(reason) = line.strip_prefix(SKIPPED) {
            self.skipped_here += 1;
            self.counts.skip_reasons.push(reason.to_owned());
        }
        if self.in_failures && self.counts.failures.len() < SHOWN_LINES {
            self.counts.failures.push(format!("  {line}"));
        }
    }

    /// What the harness's line of a test's end is about, and when the test before it ended.
    pub(crate) fn took(&mut self, program: &str, line: &str, time: Duration) {
        if time >= LONG {
            let test = line.trim_start_matches("test ").split(" ... ").next().unwrap_or(line);
            self.counts.long.push((time, format!("{program}: {test}")));
        }
    }

    /// The counts, with a failure when `success` tells that cargo failed without any failed test, as when a test
    /// program crashed or did not compile; `last_lines` say how.
    pub(crate) fn end(mut self, success: bool, last_lines: impl IntoIterator<Item = String>) -> Counts {
        if !success && self.counts.failed == 0 {
            self.counts.failed = 1;
            self.counts.failures.extend(last_lines.into_iter().map(|line| format!("  {line}")));
        }
        self.counts
    }
}

/// The number in front of a word, as in `3 passed; 1 failed`; 0 if it is not there.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split([';', ',', '.']).find_map(|part| part.trim().strip_suffix(word));
    before.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Counts, FailedTest, Reader};

    fn read(output: &str, success: bool) -> Counts {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line("tests a", line));
        reader.end(success, ["error: it did not compile".to_owned()])
    }

    #[test]
    fn programs_are_summed_and_skips_are_taken_from_the_passed() {
        let counts = read(
            "running 5 tests\ntest cost ... ignored, a measurement, not a check\ntest long ... ignored, slow: by --slow\ntest a ... ok\n\nsuccesses:\n\n---- a stdout ----\nSKIPPED: not root\n\n\
             test result: ok. 2 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
             test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
            true,
        );
        assert_eq!((counts.passed, counts.failed, counts.skipped, counts.left), (5, 0, 2, 1));
        assert_eq!(counts.skip_reasons, ["not root", "1 marked #[ignore]"]);
    }

    #[test]
    fn failures_are_kept_with_their_output() {
        let counts = read(
            "test b ... FAILED\n\nfailures:\n\n---- b stdout ----\nassertion failed\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\nafter\n",
            false,
        );
        assert_eq!((counts.passed, counts.failed), (0, 1));
        assert_eq!(counts.failed_tests, [b()]);
        assert!(counts.failures.iter().any(|line| line.contains("assertion failed")), "{counts:?}");
        assert!(!counts.failures.iter().any(|line| line.contains("after")), "{counts:?}");
    }

    fn b() -> FailedTest {
        FailedTest { program: "tests a".to_owned(), test: "b".to_owned() }
    }

    #[test]
    fn what_passes_at_the_second_try_only_is_told() {
        let first = || Counts { passed: 3, ..Counts::one_failed("b panicked".to_owned()) };
        let mut counts = first();
        counts.tried_again(b(), &Counts::one_passed());
        assert_eq!((counts.passed, counts.failed), (4, 0));
        assert_eq!(counts.to_string(), "4 passed, 0 failed, 0 skipped; only at the second try: tests a: b");
        assert_eq!(counts.failures, ["b panicked"]);

        for again in [
            Counts::one_failed("b panicked again".to_owned()),
            Counts::one_skipped("no kernel".to_owned()),
            Counts::default(),
        ] {
            let mut counts = first();
            counts.tried_again(b(), &again);
            assert_eq!((counts.passed, counts.failed, counts.at_second_try.len()), (3, 1, 0));
        }
    }

    #[test]
    fn a_program_that_did_not_get_to_its_tests_is_a_failure() {
        let counts = read("error: could not compile\n", false);
        assert_eq!(counts.failed, 1);
        assert!(counts.failures[0].contains("did not compile"));
    }
}
