//! Labels and annotations of the Kubernetes objects that belong to an Organism.

/// Name of the Organism that an object belongs to. On every object of a ledger and of a body.
pub const ORGANISM_LABEL: &str = "genesis.venom.dev/organism";
/// UID of the Organism that an object belongs to. Only on objects of a ledger, so that a selector on this key
/// matches no other object.
pub const UID_LABEL: &str = "genesis.venom.dev/organism-uid";
/// On the head of a ledger: the replica of the operator that has taken it over last.
pub const HOLDER_ANNOTATION: &str = "genesis.venom.dev/holder";
/// On the head of a ledger: `true` where its holder has given it back.
pub const RELEASED_ANNOTATION: &str = "genesis.venom.dev/released";
/// Kubernetes' recommended label for the program that manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on every object that the operator creates.
pub const MANAGER: &str = "venom";
