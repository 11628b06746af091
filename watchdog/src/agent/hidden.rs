//! Which part of what a service receives cannot be read, and what would help.

use std::collections::{BTreeMap, HashMap};

use watchdog_common::types::Blind;

/// What was received counts half after so long.
const HALF_LIFE_NS: f64 = 30e9;
/// Less than this says nothing: a handshake, a probe of a port.
const LEAST_BYTES: f64 = 2000.0;

/// Why bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Tls,
    Http2,
    Unknown,
    IoUring,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Tls, Self::Http2, Self::Unknown, Self::IoUring];

    /// The value of the `kind` label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::Unknown => "unknown_protocol",
            Self::IoUring => "io_uring",
        }
    }

    fn is(self) -> &'static str {
        match self {
            Self::Tls => "is TLS that ends in the service itself",
            Self::Http2 => "is HTTP/2 whose requests cannot be told apart",
            Self::Unknown => "is of no protocol that can be read",
            Self::IoUring => "comes through io_uring, which cannot be read",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Tls => {
                "let the agent read it in the TLS library (`uprobes` of the service), or end TLS in a proxy in front"
            }
            Self::Http2 => {
                "connections that are older than the agent are read once they are made anew; else let the proxy in \
                 front speak HTTP/1.1 to the service"
            }
            Self::Unknown => {
                "set `protocol` if it is one that the agent knows; else this service cannot be measured"
            }
            Self::IoUring => "switch io_uring off in the server's settings, so that it reads by system calls",
        }
    }
}

/// What the connections that lead to a service brought lately.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    before: HashMap<u16, Blind>,
    readable_bytes: f64,
    /// By [`Kind`] as index.
    by_kind_bytes: [f64; 4],
    at_mono_ns: u64,
}

impl Hidden {
    /// Cumulative figures of the service's open slots.
    pub(super) fn add(&mut self, now_mono_ns: u64, slots: &[(u16, Blind)]) {
        let passed_ns = now_mono_ns.saturating_sub(self.at_mono_ns) as f64;
        self.at_mono_ns = now_mono_ns;
        let kept = libm::exp2(-passed_ns / HALF_LIFE_NS);
        self.readable_bytes *= kept;
        self.by_kind_bytes.iter_mut().for_each(|bytes| *bytes *= kept);
        for (slot, now) in slots {
            let before = self.before.get(slot).copied().unwrap_or_default();
            let grown = |of: fn(&Blind) -> u64| of(now).saturating_sub(of(&before)) as f64;
            self.readable_bytes += grown(|blind| blind.readable_bytes);
            let by_kind: [fn(&Blind) -> u64; 4] = [
                |blind| blind.tls_bytes,
                |blind| blind.http2_bytes,
                |blind| blind.unknown_bytes,
                |blind| blind.io_uring_bytes,
            ];
            for (bytes, of) in self.by_kind_bytes.iter_mut().zip(by_kind) {
                *bytes += grown(of);
            }
        }
        // A slot that is taken again begins at zero.
        self.before = slots.iter().copied().collect();
    }

    fn total_bytes(&self) -> Option<f64> {
        let total = self.readable_bytes + self.by_kind_bytes.iter().sum::<f64>();
        (total >= LEAST_BYTES).then_some(total)
    }

    /// Hidden share of what was received, 0 to 1; `None` while next to nothing was.
    pub(super) fn share(&self) -> Option<f64> {
        self.total_bytes().map(|total| self.by_kind_bytes.iter().sum::<f64>() / total)
    }

    /// By what hides it, without the kinds that hide nothing.
    pub(super) fn shares(&self) -> BTreeMap<&'static str, f64> {
        let Some(total) = self.total_bytes() else { return BTreeMap::new() };
        let shares = Kind::ALL.into_iter().zip(self.by_kind_bytes);
        shares.filter(|(_, bytes)| *bytes > 0.0).map(|(kind, bytes)| (kind.label(), bytes / total)).collect()
    }

    /// One sentence for each kind that hides at least a hundredth, the largest first.
    pub(super) fn sentences(&self, service: &str) -> Vec<String> {
        let Some(total) = self.total_bytes() else { return Vec::new() };
        let mut shares: Vec<(Kind, f64)> =
            Kind::ALL.into_iter().zip(self.by_kind_bytes.map(|bytes| bytes / total)).collect();
        shares.retain(|(_, share)| *share >= 0.01);
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        let sentence = |(kind, share): (Kind, f64)| {
            format!("{:.0} % of what {service} receives {}: {}.", 100.0 * share, kind.is(), kind.remedy())
        };
        shares.into_iter().map(sentence).collect()
    }

    /// Why nothing may be concluded, when more is hidden than may be.
    pub(super) fn blind(&self, service: &str, min_coverage: f64) -> Option<String> {
        let share = self.share()?;
        if share <= 1.0 - min_coverage {
            return None;
        }
        let kinds: Vec<String> = Kind::ALL
            .into_iter()
            .filter_map(|kind| self.shares().get(kind.label()).map(|share| (kind, *share)))
            .filter(|(_, share)| *share >= 0.01)
            .map(|(kind, share)| format!("{:.0} % {}", 100.0 * share, kind.is()))
            .collect();
        Some(format!(
            "{:.0} % of what {service} receives cannot be read ({}), {:.0} % are allowed (min_coverage)",
            100.0 * share,
            kinds.join(", "),
            100.0 * (1.0 - min_coverage)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn blind(readable_bytes: u64, tls_bytes: u64) -> Blind {
        Blind { readable_bytes, tls_bytes, ..Blind::default() }
    }

    #[test]
    fn what_hides_is_named_with_its_share_and_what_would_help() {
        let mut hidden = Hidden::default();
        hidden.add(S, &[(1, blind(500, 0))]);
        assert_eq!((hidden.share(), hidden.blind("web", 0.8)), (None, None));
        hidden.add(2 * S, &[(1, blind(3800, 0)), (2, blind(0, 6200))]);
        let sentences = hidden.sentences("web");
        assert!(
            sentences.len() == 1
                && sentences[0].starts_with("62 % of what web receives is TLS that ends in the service"),
            "{sentences:?}"
        );
        let why = hidden.blind("web", 0.8).unwrap();
        assert!(why.starts_with("62 % of what web receives cannot be read (62 % is TLS"), "{why}");
        assert_eq!(hidden.blind("web", 0.3), None);
    }

    #[test]
    fn old_traffic_is_forgotten_and_a_slot_that_is_taken_again_begins_at_zero() {
        let mut hidden = Hidden::default();
        hidden.add(S, &[(1, blind(0, 100_000))]);
        hidden.add(2 * S, &[]);
        hidden.add(400 * S, &[(1, blind(50_000, 0))]);
        assert!(hidden.share().unwrap() < 0.01, "{hidden:?}");
    }
}
