//! Which shares of their capital the bettors put on "over budget", and how the capital is dealt out among them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Shares of the capital that the bettors put on "over budget". A grid of eight costs `ln 8` of evidence against
/// knowing the best bet beforehand; four or sixteen change the delay by less than 10 %.
pub const BETS: [f64; 8] = [0.02, 0.05, 0.10, 0.20, 0.35, 0.55, 0.75, 0.95];

/// Each bettor's share of the capital.
pub const STAKE: f64 = 1.0 / BETS.len() as f64;

/// Bettors are worked on in groups of eight. A last group that is not full is filled up with bettors that have nothing.
pub(super) const LANES: usize = BETS.len();
pub(super) type Lanes = [f64; LANES];

/// More bettors than this only cost time.
const MOST: usize = 64;

static USUAL: [Lanes; 1] = [BETS];
static USUAL_SHARES: [Lanes; 1] = [[STAKE; LANES]];

/// A grid of bettors: [`BETS`] with [`STAKE`] each, unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Option<Grid>", into = "Option<Grid>")]
pub struct Bets(Option<Box<Own>>);

#[derive(Clone, Debug, PartialEq)]
struct Own {
    count: usize,
    bets: Vec<Lanes>,
    shares: Vec<Lanes>,
}

/// As it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Grid {
    bets: Vec<f64>,
    shares: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Error)]
pub enum InvalidBets {
    #[error("there are {0} bets; 1 to {MOST} are possible")]
    Count(usize),
    #[error("there are {bets} bets and {shares} shares of the capital; each bet needs one")]
    Shares { bets: usize, shares: usize },
    #[error("bet {0} is not above 0 and at most 1")]
    Bet(f64),
    #[error("share {0} of the capital is not a number from 0 on")]
    Share(f64),
    #[error("the shares of the capital sum to {0}, not to 1")]
    Sum(f64),
}

impl Bets {
    /// `shares[k]` of the capital is dealt to the bettor that stakes `bets[k]` of what it has on every request.
    pub fn new(bets: &[f64], shares: &[f64]) -> Result<Self, InvalidBets> {
        if bets.is_empty() || bets.len() > MOST {
            return Err(InvalidBets::Count(bets.len()));
        }
        if bets.len() != shares.len() {
            return Err(InvalidBets::Shares { bets: bets.len(), shares: shares.len() });
        }
        if let Some(&bet) = bets.iter().find(|&&bet| !(bet > 0.0 && bet <= 1.0)) {
            return Err(InvalidBets::Bet(bet));
        }
        if let Some(&share) = shares.iter().find(|&&share| !(share >= 0.0 && share.is_finite())) {
            return Err(InvalidBets::Share(share));
        }
        let sum: f64 = shares.iter().sum();
        if (sum - 1.0).abs() > 1e-9 {
            return Err(InvalidBets::Sum(sum));
        }
        if bets == BETS && shares == [STAKE; BETS.len()] {
            return Ok(Self(None));
        }
        let in_lanes = |values: &[f64]| -> Vec<Lanes> {
            let lanes = |chunk: &[f64]| std::array::from_fn(|lane| chunk.get(lane).copied().unwrap_or(0.0));
            values.chunks(LANES).map(lanes).collect()
        };
        let own = Own { count: bets.len(), bets: in_lanes(bets), shares: in_lanes(shares) };
        Ok(Self(Some(Box::new(own))))
    }

    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(BETS.len(), |own| own.count)
    }

    pub fn bets(&self) -> impl Iterator<Item = f64> {
        self.lanes().iter().flatten().copied().take(self.count())
    }

    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.share_lanes().iter().flatten().copied().take(self.count())
    }

    #[inline]
    pub(super) fn lanes(&self) -> &[Lanes] {
        self.0.as_ref().map_or(&USUAL, |own| &own.bets)
    }

    #[inline]
    pub(super) fn share_lanes(&self) -> &[Lanes] {
        self.0.as_ref().map_or(&USUAL_SHARES, |own| &own.shares)
    }
}

impl TryFrom<Option<Grid>> for Bets {
    type Error = InvalidBets;

    fn try_from(grid: Option<Grid>) -> Result<Self, InvalidBets> {
        grid.map_or(Ok(Self(None)), |grid| Self::new(&grid.bets, &grid.shares))
    }
}

impl From<Bets> for Option<Grid> {
    fn from(bets: Bets) -> Self {
        let grid = || Grid { bets: bets.bets().collect(), shares: bets.shares().collect() };
        bets.0.is_some().then(grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_grid_is_the_default_however_it_is_named() {
        assert_eq!(Bets::new(&BETS, &[STAKE; 8]).unwrap(), Bets::default());
        assert_eq!(Bets::default().bets().collect::<Vec<_>>(), BETS);
        assert_eq!(serde_json::to_string(&Bets::default()).unwrap(), "null");
    }

    #[test]
    fn other_grids_survive_json() {
        let bets: Vec<f64> = (1..=11).map(|k| 0.09 * f64::from(k)).collect();
        let grid = Bets::new(&bets, &[1.0 / 11.0; 11]).unwrap();
        assert_eq!((grid.count(), grid.lanes().len()), (11, 2));
        let text = serde_json::to_string(&grid).unwrap();
        assert_eq!(serde_json::from_str::<Bets>(&text).unwrap(), grid);
        assert!(serde_json::from_str::<Bets>(r#"{"bets":[2.0],"shares":[1.0]}"#).is_err());
    }

    #[test]
    fn impossible_grids_are_refused() {
        assert_eq!(Bets::new(&[], &[]), Err(InvalidBets::Count(0)));
        assert_eq!(Bets::new(&[0.5], &[0.5, 0.5]), Err(InvalidBets::Shares { bets: 1, shares: 2 }));
        assert_eq!(Bets::new(&[1.5], &[1.0]), Err(InvalidBets::Bet(1.5)));
        assert_eq!(Bets::new(&[0.1, 0.5], &[1.5, -0.5]), Err(InvalidBets::Share(-0.5)));
        assert_eq!(Bets::new(&[0.1, 0.5], &[0.5, 0.4]), Err(InvalidBets::Sum(0.9)));
        assert!(matches!(Bets::new(&[f64::NAN], &[1.0]), Err(InvalidBets::Bet(_))));
    }
}
