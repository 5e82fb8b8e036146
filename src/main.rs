//! The `venom` binary, which is also the kubectl plug-in `kubectl venom`.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use venom::cli::{self, crds, explain, inject, ledger, mesh, node, operator, release, run, train};

/// An auditable autopilot for a group of pods.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an organism without a cluster and write its ledger to a folder
    Run(run::Args),
    /// Run the operator
    Operator(operator::Args),
    /// Run a node, a peer of the mesh
    Node(node::Args),
    /// Inject anomalies or a model weight through a node
    Inject(inject::Args),
    /// Create certificates for a mesh without a cluster
    Mesh(mesh::Args),
    /// Print the CustomResourceDefinitions as YAML
    Crds(crds::Args),
    /// Read and verify a ledger
    Ledger(ledger::Args),
    /// Explain why a decision was taken, or why another was not
    Explain(explain::Args),
    /// Undo what was done about an Organism's decisions, and keep hands off
    Release(release::Args),
    /// Learn the threat model from one's own data, and say how good it is
    Train(train::Args),
}

fn main() -> ExitCode {
    let name = cli::program_name();
    let command = Cli::command().name(name).bin_name(name);
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let result = match parsed {
        Ok(Cli { command: Command::Run(args) }) => run::run(&args),
        Ok(Cli { command: Command::Operator(args) }) => operator::run(&args),
        Ok(Cli { command: Command::Node(args) }) => node::run(&args),
        Ok(Cli { command: Command::Inject(args) }) => inject::run(&args),
        Ok(Cli { command: Command::Mesh(args) }) => mesh::run(&args),
        Ok(Cli { command: Command::Crds(args) }) => crds::run(&args),
        Ok(Cli { command: Command::Ledger(args) }) => ledger::run(&args),
        Ok(Cli { command: Command::Explain(args) }) => explain::run(&args),
        Ok(Cli { command: Command::Release(args) }) => release::run(&args),
        Ok(Cli { command: Command::Train(args) }) => train::run(&args),
        Err(error) => return cli::usage(name, &error),
    };
    cli::exit_code(name, result)
}
