//! VENOM Λ-GENESIS: an auditable autopilot for a group of pods.
//!
//! An Organism beats: it reads anomalies, scores the threat with a small model, decides one of five actions, and
//! writes each step into a ledger from which anyone can re-derive every decision offline.
//!
//! # Code map
//!
//! Each module imports only modules above it.
//!
//! | module | contents | I/O |
//! |---|---|---|
//! | [`organism`] | the engine's numbers: one beat is one function | none |
//! | [`ledger`] | entries, hash chain, Merkle tree, segment codec, replay, explanations | none |
//! | `printable` | text of others, made safe to show | none |
//! | [`training`] | the threat model learned from rows of data, and how good it is | none |
//! | `net` | connection limits, dual-stack listeners, plain HTTP | sockets |
//! | `files` | files that are replaced as a whole or not at all | files |
//! | [`mesh`] | the peers of an organism: protocol, links, certificates | sockets, TLS |
//! | [`node`] | the process in a node pod | sockets, files |
//! | [`api`] | the two custom resources: fields, defaults, rules, labels | none |
//! | [`store`] | where ledgers live: ConfigMaps, a folder | API server, files |
//! | [`runtime`] | one running organism between its beats | none |
//! | [`operator`] | controllers, one actor an organism, beater, committer, publisher | API server |
//! | [`cli`] | one file a subcommand | terminal |
//!
//! To follow one change of a spec: [`operator::controllers::organism`] claims the Genome and sends the desired state
//! to the organism's [`operator::actor`]; that hands it to [`operator::beater`], whose thread drives a
//! [`runtime::Engine`]: [`organism::beat::open`], the four cores, [`organism::beat::close`]. The engine's batch goes to
//! [`operator::committer`], which creates a segment and replaces the head; only then [`operator::publisher`] writes
//! the status, and [`operator::response`] acts on the decision. What happens to the pods comes back through
//! [`operator::sensing`] as inputs of the engine. Whose pods they are, where a workload of somebody else is the body, is
//! observed by [`operator::adoption`]. Of several replicas of the operator one does all this for an organism:
//! [`operator::members`] says which, and [`operator::ownership`] what follows for this one.
//!
//! # Architecture invariants
//!
//! `tests/house.rs` holds them.
//!
//! - `organism/` and `ledger/` use no clock, no I/O, no tokio, no Kubernetes, no `HashMap`: time is an argument.
//!   Operator, `venom run`, replay and tests run the same beat function, and `runtime/` is the only loop around it.
//! - `mesh/` and `node/` use no Kubernetes, no ledger and no engine. The protocol in `mesh/gossip.rs` has no clock, no
//!   I/O and no chance either: a simulated network runs what real nodes run. A peer's name comes from its
//!   certificate, never from its messages.
//! - `training/` uses no clock, no I/O, no Kubernetes, and chance only by a seed.
//! - The segment codec does not use `organism/`: a codec that predicts with the engine would prove nothing.
//! - Imports go one way, between these modules and between the parts of `operator/`.
//! - Only the committer writes the objects of a ledger that is held, only the body's reconciler those of a body, only
//!   the response objects of others, only the publisher an Organism's status. Nothing of an adopted workload is ever
//!   written. A Genome's claim and its condition while it is not bound belong to the controllers, and so do the
//!   conditions of an Organism that is not taken up, which has no publisher.
//!   `venom ledger repair` is the one exception: the head that it writes fences every operator.
//! - Segments are deleted by merging, by pruning, by Kubernetes with the Organism that owns them, and, after a
//!   take-over, when an earlier writer of the same Organism never listed them. By nothing else.
//! - Nothing is shown, and no injection is acknowledged, before it is committed. What an organism cannot do at
//!   present (commit, keep its pace, have its nodes) is shown as it is observed.
//! - `exp` and `ln` come from the pinned `libm`. A change of the engine that alters bits raises
//!   [`organism::VERSION`], and replay says so.
//! - What people read of others' text (lines of commands, the log, conditions, Events) passes `printable`. What is printed
//!   as data is ASCII and never cut.
//! - No `unsafe`; no `unwrap` or `expect` outside tests.
//!
//! # Glossary
//!
//! | term | meaning |
//! |---|---|
//! | body | the pods of an organism: nodes that the operator makes, or those of an adopted workload |
//! | organism | a body of pods with a pulse and a ledger; the Organism resource |
//! | genome | weights, PID gains, risk, model, thresholds; the Genome resource, bound to one Organism |
//! | pulse, T_Λ | the period of the beats, from k, P, t1 and u |
//! | beat | pulse, four cores, decision, PID, evolution: seven ledger entries |
//! | core | Regen, Balance, Entropy, Optimize: a pure function of the genome's state |
//! | held beat | a beat with a failed core: the last decision stands |
//! | measures | what the response to a decision changes in a body: isolation, what the autoscaler may do, its target |
//! | P | nodes that are ready, at least 1 |
//! | node | a pod of the body, and a peer of the mesh |
//! | injection | anomalies or a model weight handed in through a node, recorded exactly once |
//! | segment | consecutive entries in one immutable object |
//! | head | the one mutable object of a ledger: its segments, size, root; replacing it commits |
//! | replica | a process of the operator, one of those that share the Organisms of the same namespaces |
//! | holder | the replica that beats an organism and writes its ledger; its head names it |
//! | epoch | number of the head's writer; a higher one fences all earlier writers |
//! | generation | number of a ledger among those of one name (not metadata.generation) |

pub mod api;
pub mod cli;
mod files;
pub mod ledger;
pub mod mesh;
mod net;
pub mod node;
pub mod operator;
pub mod organism;
mod printable;
pub mod runtime;
pub mod store;
pub mod training;
