//! The finest grain that figures are kept in: answered how, by how old a process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::StatusClass;

/// How long the process had run when the request ended. A new process is dearer (compilers, empty caches), and how much
/// so is learned bucket by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Age {
    /// Less than 3 s.
    To3,
    To10,
    To30,
    To100,
    /// 100 s and more, or not known.
    #[default]
    Older,
}

impl Age {
    pub const ALL: [Self; 5] = [Self::To3, Self::To10, Self::To30, Self::To100, Self::Older];

    pub fn of(age: Duration) -> Self {
        match age.as_secs() {
            0..3 => Self::To3,
            3..10 => Self::To10,
            10..30 => Self::To30,
            30..100 => Self::To100,
            _ => Self::Older,
        }
    }

    pub fn index(self) -> u8 {
        self as u8
    }

    /// In seconds, for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::To3 => "0 to 3 s",
            Self::To10 => "3 to 10 s",
            Self::To30 => "10 to 30 s",
            Self::To100 => "30 to 100 s",
            Self::Older => "over 100 s",
        }
    }
}

impl From<u8> for Age {
    /// What is not known counts as old.
    fn from(index: u8) -> Self {
        Self::ALL.get(usize::from(index)).copied().unwrap_or_default()
    }
}

impl From<Age> for u8 {
    fn from(age: Age) -> Self {
        age.index()
    }
}

/// Requests that ended alike. All that is kept of an endpoint is disjoint in these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u16, u16, Age)", into = "(u16, u16, Age)")]
pub struct Cell {
    pub class: StatusClass,
    /// The exact status; 0 where only its class is known: the endpoint had too many, or the sample was dropped and came
    /// back as a count.
    pub status: u16,
    pub age: Age,
}

impl Cell {
    pub fn new(status: u16, age: Age) -> Self {
        Self { class: StatusClass::of_status(status), status, age }
    }
}

impl From<StatusClass> for Cell {
    fn from(class: StatusClass) -> Self {
        Self { class, status: 0, age: Age::Older }
    }
}

impl From<(u16, u16, Age)> for Cell {
    fn from((class, status, age): (u16, u16, Age)) -> Self {
        Self { class: StatusClass::of_index(class), status, age }
    }
}

impl From<Cell> for (u16, u16, Age) {
    fn from(cell: Cell) -> Self {
        (cell.class.index(), cell.status, cell.age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_the_edges_of_the_decision_note() {
        for (seconds, age) in [
            (0.0, Age::To3),
            (2.999, Age::To3),
            (3.0, Age::To10),
            (9.999, Age::To10),
            (10.0, Age::To30),
            (30.0, Age::To100),
            (99.9, Age::To100),
            (100.0, Age::Older),
            (1e9, Age::Older),
        ] {
            assert_eq!(Age::of(Duration::from_secs_f64(seconds)), age, "{seconds}");
        }
        assert_eq!(Age::from(250), Age::Older);
    }

    #[test]
    fn a_cell_is_three_numbers() {
        let cell = Cell::new(302, Age::To10);
        let text = serde_json::to_string(&cell).unwrap();
        assert_eq!(text, "[3,302,1]");
        assert_eq!(serde_json::from_str::<Cell>(&text).unwrap(), cell);
    }
}
