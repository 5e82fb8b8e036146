//! What is not known because a watch fails, or not done because a Lease cannot be renewed. Pure.

use std::collections::BTreeMap;

/// What fails in this replica. Watches are listed by the namespace that they watch (none for all), and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailingWatches {
    /// Those on ledger objects.
    pub ledgers: BTreeMap<Option<String>, String>,
    /// Those on the objects of bodies.
    pub bodies: BTreeMap<Option<String>, String>,
    /// Those on the pods of bodies.
    pub pods: BTreeMap<Option<String>, String>,
    /// Why this replica may not beat; none while it may.
    pub lease: Option<String>,
}

impl FailingWatches {
    /// Why the ledger objects of this namespace are not seen; none when they are.
    #[must_use]
    pub fn ledgers_of(&self, namespace: &str) -> Option<&str> {
        of(&self.ledgers, namespace)
    }

    /// Why the bodies of this namespace are not seen; none when they are.
    #[must_use]
    pub fn bodies_of(&self, namespace: &str) -> Option<&str> {
        of(&self.bodies, namespace)
    }

    /// Why the pods of this namespace are not seen; none when they are.
    #[must_use]
    pub fn pods_of(&self, namespace: &str) -> Option<&str> {
        of(&self.pods, namespace)
    }
}

fn of<'a>(failing: &'a BTreeMap<Option<String>, String>, namespace: &str) -> Option<&'a str> {
    let found = failing.get(&None).or_else(|| failing.get(&Some(namespace.to_owned())));
    found.map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_of_one_namespace_says_nothing_about_another() {
        let one =
            |namespace: Option<&str>| BTreeMap::from([(namespace.map(str::to_owned), "403".to_owned())]);
        let failing =
            FailingWatches { ledgers: one(None), bodies: one(Some("a")), ..FailingWatches::default() };
        assert_eq!((failing.ledgers_of("a"), failing.ledgers_of("b")), (Some("403"), Some("403")));
        assert_eq!((failing.bodies_of("a"), failing.bodies_of("b")), (Some("403"), None));
    }
}
