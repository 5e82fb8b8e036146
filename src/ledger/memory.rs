//! A whole ledger in memory, under the mission's names.

use serde::Serialize;
use serde_json::{Value, json};

use super::canonical::NotCanonical;
use super::chain::{Chain, ChainError};
use super::entry::{Entry, Record};
use super::{Hash, hex};
use crate::organism::cores::Flow;
use crate::organism::decision::{Action, Details};
use crate::organism::pulse::Pulse;

/// A ledger whose entries are all in memory, with the operations that the mission names.
///
/// The operator and `venom run` append to a [`Chain`] instead and store entries as segments.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    chain: Chain,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Appends the entries of `record`.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn add(&mut self, record: &Record) -> Result<(), NotCanonical> {
        let mut previous_hash = *self.chain.last_hash();
        let mut rows = Vec::new();
        record
            .write(&mut Vec::new(), &mut |timestamp, data| rows.push((timestamp, Box::<str>::from(data))))?;
        for (timestamp, data) in rows {
            let index = self.chain.size();
            let hash = self.chain.append(timestamp, &data);
            self.entries.push(Entry { index, timestamp, data, previous_hash, hash });
            previous_hash = hash;
        }
        Ok(())
    }

    /// Appends one entry with arbitrary data.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn add_entry<T: Serialize>(&mut self, timestamp: f64, data: &T) -> Result<(), NotCanonical> {
        self.add(&Record::other(timestamp, None, data)?)
    }

    /// Appends an action entry.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn record_action(
        &mut self,
        timestamp: f64,
        action: Action,
        details: &Details,
    ) -> Result<(), NotCanonical> {
        self.add_entry(timestamp, &json!({"type": "action", "action": action, "details": details}))
    }

    /// Appends a pulse entry.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn record_pulse(&mut self, pulse: &Pulse, features_anoms: u64) -> Result<(), NotCanonical> {
        let data = json!({"type": "pulse", "pulse": pulse, "features": {"anoms": features_anoms}});
        self.add_entry(pulse.timestamp, &data)
    }

    /// Appends a flow_result entry.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn record_flow_result<T: Serialize>(
        &mut self,
        timestamp: f64,
        flow: Flow,
        result: &T,
    ) -> Result<(), NotCanonical> {
        self.add_entry(timestamp, &json!({"type": "flow_result", "flow": flow, "result": result}))
    }

    /// Verifies every index, link and hash from index 0.
    ///
    /// # Errors
    /// Returns the [`ChainError`] of the first entry that does not continue the chain.
    pub fn verify_chain(&self) -> Result<(), ChainError> {
        let mut chain = Chain::default();
        self.entries.iter().try_for_each(|entry| chain.verify_next(entry))
    }

    /// Merkle root over all entries.
    #[must_use]
    pub fn compute_merkle_root(&self) -> Hash {
        self.chain.tree().root()
    }

    /// The manifest: hash algorithm, size, last hash and Merkle root.
    #[must_use]
    pub fn get_manifest(&self) -> Value {
        json!({
            "hash_algorithm": "SHA3-256",
            "last_hash": hex(self.chain.last_hash()),
            "merkle_root": hex(&self.compute_merkle_root()),
            "size": self.chain.size(),
        })
    }

    /// All entries, from index 0.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}
