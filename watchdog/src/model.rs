//! Names and small values that every stage shares.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which user probes may be put into the processes of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Uprobes {
    /// On libuv's pool.
    pub pool: bool,
    /// On TLS libraries.
    pub tls: bool,
}

impl Uprobes {
    pub const NONE: Self = Self { pool: false, tls: false };
    pub const ALL: Self = Self { pool: true, tls: true };

    pub fn any(self) -> bool {
        self.pool || self.tls
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { pool: self.pool && other.pool, tls: self.tls && other.tls }
    }

    /// What either allows.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { pool: self.pool || other.pool, tls: self.tls || other.tls }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A service as the configuration names it.
    ServiceName
}
name! {
    /// An endpoint of a service; [`EndpointName::other`] holds the requests that match none.
    EndpointName
}
name! {
    /// A build as its source names it: a revision, a build-id, a release directory.
    BuildId
}

impl EndpointName {
    /// Requests that match no configured endpoint.
    pub fn other() -> Self {
        Self::from("other")
    }
}

/// Class of an HTTP status, `none` when no status line was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusClass {
    None,
    Informational,
    Success,
    Redirect,
    ClientError,
    ServerError,
}

impl StatusClass {
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Informational,
        Self::Success,
        Self::Redirect,
        Self::ClientError,
        Self::ServerError,
    ];

    /// Of a status code; anything outside 100 to 599 is `None`.
    pub fn of_status(status: u16) -> Self {
        Self::of_index(status / 100)
    }

    /// Of the index the kernel uses: the first digit of the status.
    pub fn of_index(index: u16) -> Self {
        Self::ALL.get(usize::from(index)).copied().unwrap_or(Self::None)
    }

    pub fn index(self) -> u16 {
        self as u16
    }

    /// The value of the `status_class` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}
