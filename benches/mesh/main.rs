//! The mesh compared with a message broker: latency and throughput of the same fan-out; the pace of deliveries; the
//! time until nodes are linked; the resources of an idle node.
//!
//! `cargo bench --bench mesh`. The broker is `nats-server` from the PATH, or the program in NATS_SERVER; without one
//! only the mesh is measured. Each ratio is the median of several pairs of runs that alternate, because the
//! machine's speed drifts and a ratio hardly does. Nothing is asserted.

mod fanout;
mod nats;
mod nodes;
mod venom_mesh;

use std::time::{Duration, SystemTime};

use fanout::Figures;
use venom::mesh::identity::{Authority, CERTIFICATE_LIFETIME, generate_key_and_csr};
use venom::mesh::{Credentials, Identity};

const PAIRS: usize = 5;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Fallible<()> {
    // Cargo passes --bench; `cargo test` passes --test and needs no measurements.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    // The publisher runs on one thread, like `venom node`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let authority = Authority::new("venom", SystemTime::now())?;
    let broker = nats::version();

    println!(
        "1 publisher, {} receivers, {} B, mutual TLS 1.3; medians of {PAIRS} alternating runs",
        fanout::RECEIVERS,
        fanout::BYTES
    );
    let (mut transport, mut injection, mut nats) = (vec![], vec![], vec![]);
    for _ in 0..PAIRS {
        transport.push(runtime.block_on(venom_mesh::transport(&authority))?);
        if broker.is_ok() {
            nats.push(runtime.block_on(nats::fan_out(&authority))?);
        }
        injection.push(runtime.block_on(venom_mesh::injection(&authority))?);
    }
    print("mesh: outboxes, TLS, frames", &transport);
    print("mesh: a node's injection, paced", &injection);
    match &broker {
        Ok(version) => {
            print(version, &nats);
            ratio("p50, mesh : broker", &transport, &nats, |it| it.quantile(0.5));
            ratio("p50, injection : broker", &injection, &nats, |it| it.quantile(0.5));
            ratio("p99, mesh : broker", &transport, &nats, |it| it.quantile(0.99));
            ratio("p99, injection : broker", &injection, &nats, |it| it.quantile(0.99));
            ratio("deliveries/s, mesh : broker", &transport, &nats, |it| it.deliveries_a_second);
        }
        Err(why) => println!("not compared with a broker: {why}"),
    }

    println!("\ntime between deliveries of an injecting node, at a receiver");
    runtime.block_on(venom_mesh::pace(&authority))?;

    println!("\nnodes that start at once in one process, until all are linked");
    for count in [10, 100] {
        nodes::full_mesh(&authority, count)?;
    }

    println!("\nan idle process, linked to 9 others");
    nodes::at_rest()?;
    if let Ok(version) = &broker {
        runtime.block_on(nats::at_rest(&authority, version))?;
    }
    Ok(())
}

/// A certificate and its key, both in PEM form.
fn issue(authority: &Authority, at: usize) -> Fallible<(String, String)> {
    let (key, request) = generate_key_and_csr()?;
    let identity = Identity::pod("venom", "uid", &format!("pod-{at}"))?;
    Ok((authority.sign(&request, &identity, SystemTime::now(), CERTIFICATE_LIFETIME)?, key))
}

fn credentials(authority: &Authority, at: usize) -> Fallible<Credentials> {
    let (certificate, key) = issue(authority, at)?;
    Ok(Credentials::from_pem(authority.ca_pem(), &certificate, &key, None)?)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(what: &str, runs: &[Figures]) {
    let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure).collect());
    let (p50, p99) = (of(|it| it.quantile(0.5)), of(|it| it.quantile(0.99)));
    let many = match of(|it| it.deliveries_a_second) {
        0.0 => String::new(),
        rate => format!("{:>10.2} M deliveries/s", rate / 1e6),
    };
    println!("{what:<34} p50 {p50:>6.0} µs  p99 {p99:>6.0} µs{many}");
}

fn ratio(what: &str, one: &[Figures], other: &[Figures], figure: fn(&Figures) -> f64) {
    let mut ratios: Vec<f64> =
        one.iter().zip(other).map(|(one, other)| figure(one) / figure(other)).collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios.first().unwrap_or(&f64::NAN), ratios.last().unwrap_or(&f64::NAN));
    println!("{what:<34} {:>10.2}   ({least:.2} to {most:.2})", median(ratios.clone()));
}

/// Prints memory, threads and CPU of a process. Measures the CPU for 10 s.
fn print_process(what: &str, id: u32) -> Fallible<()> {
    let kib = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(f64::NAN)
    };
    let cpu = || -> Fallible<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        Ok(fields.skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum())
    };
    let before = cpu()?;
    std::thread::sleep(Duration::from_secs(10));
    let ticks = cpu()? - before;
    let memory = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    println!(
        "{what:<34} {:>5.1} MiB resident  {:>5.1} MiB proportional (PSS)  {:>5.1} MiB anonymous  {:>2} threads  {:>4.1} % of a core",
        kib(&memory, "Rss:") / 1024.0,
        kib(&memory, "Pss:") / 1024.0,
        kib(&memory, "Anonymous:") / 1024.0,
        kib(&status, "Threads:"),
        // A tick is 10 ms.
        ticks * 0.01 / 10.0 * 100.0,
    );
    Ok(())
}
