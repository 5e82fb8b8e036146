//! The body of an Organism: its pods, and what belongs to them.
//!
//! | module | what it is |
//! |---|---|
//! | [`build`] | a body as Kubernetes objects (pure) |
//! | [`keeper`] | one task an Organism: the only writer of those objects |
//! | [`children`] | what the watches see of bodies |
//! | [`autoscaling`] | who sets the number of nodes (pure) |

pub mod autoscaling;
pub mod build;
pub mod children;
pub mod keeper;

use std::sync::Arc;

use tokio::sync::Semaphore;

use self::build::{Installation, Kind};
use self::children::Children;
use super::nodes::authority::Certificates;
use super::nodes::peers::Peers;
use crate::mesh;

/// Bodies that are written to at once.
const WRITERS: usize = 8;

/// What all keepers share.
pub struct Shared {
    /// What the operator was started with.
    pub installation: Installation,
    /// Signs what nodes and the operator show one another.
    pub certificates: Arc<Certificates>,
    /// What the watches see.
    pub children: Children,
    /// Where the nodes are.
    pub peers: Peers,
    /// What the operator's places in their meshes count.
    pub mesh_metrics: Arc<mesh::Metrics>,
    writers: Semaphore,
}

impl Shared {
    /// For bodies in these namespaces; all if there is none.
    #[must_use]
    pub fn new(
        installation: Installation,
        certificates: Certificates,
        mesh_metrics: Arc<mesh::Metrics>,
        scopes: usize,
    ) -> Self {
        Self {
            installation,
            certificates: Arc::new(certificates),
            children: Children::new(scopes * Kind::ALL.len()),
            peers: Peers::default(),
            mesh_metrics,
            writers: Semaphore::new(WRITERS),
        }
    }
}
