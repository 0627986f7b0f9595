//! The durable account of what happened: append-only segments, each record a link of a keyed MAC
//! chain.
//!
//! A core claims a chain, `audit/<slot>/`, by a file lock and is its only writer, so no lock is
//! shared on the way of an exchange. A record is one JSON line. Its MAC is keyed BLAKE3, of which 128 bits
//! are kept, over its line and the MAC of the record before it; so a line can't be changed, cut or moved
//! without the key. Start, checkpoint and stop records are signed with Ed25519 over a digest of what
//! lies before them, so that the chain can be checked with the public key too. They also name the
//! heads of the other chains, so that one that is cut or removed is missed.
//!
//! An intent whose use of a key was recorded before in its segment says `like` and the number of that record
//! in place of who uses which key under which rule, and an outcome names its intent in place of the exchange.
//! What is read by [`query`] and [`Follow`] says it all.
//!
//! What no chain can show: all of them put back together to an earlier state of the directory. A
//! signed record that is kept elsewhere shows it.

mod batch;
mod chain;
mod journal;
mod layout;
mod lines;
mod link;
mod query;
mod record;
mod uses;
mod verify;
mod waiting;

#[cfg(test)]
mod tests;

pub use batch::Queued;
pub use journal::{Asker, AuditKeys, Counts, Draft, Journal, Receipt, Settings, SharedWriter, Writer};
pub use query::{Filter, Follow, names_another, query};
pub use record::{Intent, Outcome, OutcomeWord, RecordKind, acts_on_display};
pub use verify::{Report, Trouble, public_key, verify, verify_signatures};

/// Why a record can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{path}: {why}. Check the disk's space and the rights of the data directory")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        why: std::io::Error,
    },
    /// Every chain is claimed by another process.
    #[error("more than {0} audit chains are in use; end a process or raise `audit.chains`")]
    NoChain(u32),
    /// The signing key can't be used.
    #[error("the audit's signing key can't be used")]
    Key,
}

impl Error {
    pub(crate) fn io(path: &std::path::Path, why: std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), why }
    }
}
