//! Reads a TOML table key by key, so that every mistake is found and named with its place.
//!
//! The keys that a table may have are the ones that were asked for: nothing keeps a second list of them.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Fault, Findings};

/// A table under its key path.
pub(super) struct Section<'t> {
    path: String,
    span: Range<usize>,
    table: &'t DeTable<'t>,
    asked: Vec<&'static str>,
}

/// A value under its key path.
pub(super) struct Node<'t> {
    pub(super) path: String,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Section<'t> {
    pub(super) fn root(table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { path: String::new(), span: table.span(), table: table.get_ref(), asked: Vec::new() }
    }

    /// Replaces the key path, once the table's name is known.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn fault(&self, findings: &mut Findings, fault: Fault) {
        findings.error(&self.path, &self.span, fault);
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Node<'t>> {
        self.asked.push(key);
        self.table.get(key).map(|value| Node { path: self.path_of(key), value })
    }

    /// Reports that the key is missing, and why it is needed.
    pub(super) fn require(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        remedy: &str,
    ) -> Option<Node<'t>> {
        let node = self.take(key);
        if node.is_none() {
            self.fault(findings, Fault::new(format!("`{key}` is missing"), remedy));
        }
        node
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many of the keys that were asked for are there.
    pub(super) fn given(&self) -> usize {
        self.asked.iter().filter(|key| self.table.contains_key(**key)).count()
    }

    /// The keys that were not asked for, with their values.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&'t str, Node<'t>)> + '_ {
        self.table.iter().filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref())).map(
            |(key, value)| {
                let name = key.get_ref().as_ref();
                (name, Node { path: self.path_of(name), value })
            },
        )
    }

    /// Refuses every key that was not asked for. `also` lists keys that were read by other means.
    pub(super) fn finish_with(self, findings: &mut Findings, also: impl Fn(&str) -> bool) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) || also(name) {
                continue;
            }
            let place = if self.path.is_empty() { "the file".to_owned() } else { format!("`{}`", self.path) };
            findings.error(
                &self.path_of(name),
                &key.span(),
                Fault::new(format!("unknown key `{name}` in {place}"), suggest(name, &self.asked)),
            );
        }
    }

    pub(super) fn finish(self, findings: &mut Findings) {
        self.finish_with(findings, |_| false);
    }
}

impl<'t> Node<'t> {
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn fault(&self, findings: &mut Findings, fault: Fault) {
        findings.error(&self.path, &self.span(), fault);
    }

    pub(super) fn value(&self) -> &'t DeValue<'t> {
        self.value.get_ref()
    }

    /// Reports the fault, if it is one.
    pub(super) fn check<T>(&self, findings: &mut Findings, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.fault(findings, fault)).ok()
    }

    pub(super) fn table(&self, findings: &mut Findings, example: &str) -> Option<Section<'t>> {
        let Some(table) = self.value().as_table() else {
            self.wrong_type(findings, "a table", example);
            return None;
        };
        Some(Section { path: self.path.clone(), span: self.span(), table, asked: Vec::new() })
    }

    /// The tables of an array of tables, each under `path[#number]`.
    pub(super) fn tables(&self, findings: &mut Findings, example: &str) -> Vec<Section<'t>> {
        let Some(array) = self.value().as_array() else {
            self.wrong_type(findings, "an array of tables", example);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let node = Node { path: format!("{}[#{}]", self.path, index + 1), value };
            sections.extend(node.table(findings, example));
        }
        sections
    }

    pub(super) fn text(&self, findings: &mut Findings, example: &str) -> Option<&'t str> {
        let text = self.value().as_str();
        if text.is_none() {
            self.wrong_type(findings, "a string", example);
        }
        text
    }

    /// A string that `read` accepts.
    pub(super) fn text_as<T>(
        &self,
        findings: &mut Findings,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let text = self.text(findings, example)?;
        self.check(findings, read(text))
    }

    /// A string out of a closed list.
    pub(super) fn choice<T: Copy>(
        &self,
        findings: &mut Findings,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<&'static str> = choices.iter().map(|(name, _)| *name).collect();
        self.text_as(findings, &format!("\"{}\"", names[0]), |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
                Fault::new(format!("\"{text}\" is not one of the values it can have"), suggest(text, &names))
            })
        })
    }

    /// Non-empty array of strings.
    pub(super) fn texts(&self, findings: &mut Findings, example: &str) -> Option<Vec<(&'t str, Node<'t>)>> {
        let Some(array) = self.value().as_array() else {
            self.wrong_type(findings, "an array of strings", example);
            return None;
        };
        if array.is_empty() {
            self.fault(findings, Fault::new("the array is empty", format!("write at least {example}")));
            return None;
        }
        let mut texts = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            let node = Node { path: format!("{}[{index}]", self.path), value };
            let text = node.text(findings, "\"text\"")?;
            texts.push((text, node));
        }
        Some(texts)
    }

    /// An integer or a float, finite.
    pub(super) fn number(&self, findings: &mut Findings, example: &str) -> Option<f64> {
        let number = match self.value() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite());
        if number.is_none() {
            self.wrong_type(findings, "a number", example);
        }
        number
    }

    pub(super) fn integer(&self, findings: &mut Findings, range: RangeInclusive<u32>) -> Option<u32> {
        let example = range.start().to_string();
        let Some(integer) = self.value().as_integer() else {
            self.wrong_type(findings, "a whole number", &example);
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number =
            number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(
                findings,
                Fault::new(
                    format!("{} is out of range", integer.as_str()),
                    format!("it must be from {} to {}", range.start(), range.end()),
                ),
            );
        }
        number
    }

    pub(super) fn wrong_type(&self, findings: &mut Findings, wanted: &str, example: &str) {
        let article = if matches!(self.value().type_str(), "integer" | "array") { "an" } else { "a" };
        self.fault(
            findings,
            Fault::new(
                format!("expected {wanted}, found {article} {}", self.value().type_str()),
                format!("write for example {example}"),
            ),
        );
    }
}

/// "did you mean" for a word that is near to one of the known ones, and the whole list otherwise.
pub(super) fn suggest(word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, candidate)) if distance <= 1 + candidate.len() / 4 => {
            format!("did you mean `{candidate}`?")
        }
        _ => format!("it can be {}", list(known)),
    }
}

/// `a`, `b` or `c`
pub(super) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
