//! docs/decisions.md.

use std::fmt::Write as _;

use anyhow::Result;

use crate::pool::Results;
use crate::tables::{Picture, TABLES, Table};

const WORDS: &str = include_str!("words.md");

/// The whole document and its pictures. `command` and `seed` say how to make it again.
pub fn whole(results: &Results, command: &str, seed: u64) -> Result<(String, Vec<Picture>)> {
    let mut text = WORDS.replace("{command}", command).replace("{seed}", &seed.to_string());
    let mut pictures = Vec::new();
    for table in &TABLES {
        let (section, drawn) = one(table, results, seed)?;
        text += &section;
        pictures.extend(drawn);
    }
    Ok((text, pictures))
}

/// One table with its heading.
pub fn one(table: &Table, results: &Results, seed: u64) -> Result<(String, Vec<Picture>)> {
    let section = (table.render)(results, seed)?;
    let mut text = format!("\n## {}\n\n{}", table.title, section.text);
    for (name, _) in &section.pictures {
        writeln!(text, "\n![{}](decisions/{name}.svg)", table.title)?;
    }
    Ok((text, section.pictures))
}
