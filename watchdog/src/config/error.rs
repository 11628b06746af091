//! What is wrong with a configuration: file, line, column, key, problem and remedy, all of them at once.

use std::fmt;
use std::ops::Range;

/// A value that cannot stand, before it is known where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is wrong, naming the value.
    pub(crate) problem: String,
    /// What would be right.
    pub(crate) remedy: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, or `command line`.
    pub file: String,
    /// Line and column, both from 1; columns count characters. `None` when the file as a whole is meant.
    pub position: Option<(usize, usize)>,
    /// Such as `service[web].endpoint[login].budget.mean_cpu`; empty when no key is meant.
    pub key: String,
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}; {}", self.problem, self.remedy)
    }
}

/// Every mistake that was found, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    pub(super) fn one(error: ConfigError) -> Self {
        Self(vec![error])
    }

    pub(super) fn whole_file(file: &str, fault: Fault) -> Self {
        Self::one(ConfigError {
            file: file.to_owned(),
            position: None,
            key: String::new(),
            problem: fault.problem,
            remedy: fault.remedy,
        })
    }
}

impl From<Vec<ConfigError>> for ConfigErrors {
    fn from(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.position);
        Self(errors)
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Collects mistakes and warnings while a file is read, and knows where its bytes stand.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    file: &'t str,
    text: &'t str,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, key: &str, span: &Range<usize>, fault: Fault) {
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            position: Some(self.position(span.start)),
            key: key.to_owned(),
            problem: fault.problem,
            remedy: fault.remedy,
        });
    }

    pub(super) fn warn(&mut self, key: &str, span: &Range<usize>, text: &str) {
        let (line, column) = self.position(span.start);
        self.warnings.push(format!("{}:{line}:{column}: {key}: {text}", self.file));
    }

    /// The warnings, or the mistakes when there are any.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.into_errors()) }
    }

    /// Of a text that cannot be read on: there is at least one mistake.
    pub(super) fn into_errors(self) -> ConfigErrors {
        self.errors.into()
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}
