//! Beats of 1, 100 and 1,000 organisms in one operator against a real API server: how late beats begin, what
//! the operator uses, what it writes.
//!
//! `cargo bench --bench operator [-- N …]`, with KUBECONFIG set or a cluster of e2e/cluster up. Organisms beat
//! once a second (minPeriod 1s), 60 s are measured after all are Ready. Not asserted: figures to compare.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "venom-bench";
const MEASURED: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|arg| arg == "--test") {
        return;
    }
    let mut sizes: Vec<u32> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1, 100, 1_000];
    }
    kubectl(&["apply", "--server-side", "-f", "crds/"], None);
    for size in sizes {
        measure(size);
    }
}

fn measure(size: u32) {
    kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"], None);
    kubectl(&["create", "namespace", NAMESPACE], None);
    let manifests: String = (0..size)
        .map(|at| {
            format!(
                "---\napiVersion: genesis.venom.dev/v1alpha1\nkind: Organism\nmetadata: {{name: o{at}, namespace: {NAMESPACE}}}\nspec: {{pulse: {{minPeriod: 1s}}}}\n"
            )
        })
        .collect();
    let (mut operator, port) = start();
    let began = Instant::now();
    kubectl(&["create", "-f", "-"], Some(&manifests));
    let applied = began.elapsed();
    while ready() < size {
        std::thread::sleep(Duration::from_millis(500));
    }
    let taken_up = began.elapsed();
    // A second start with all of them there.
    stop(&mut operator);
    let began = Instant::now();
    let (mut operator, port2) = start();
    let _ = port;
    while metrics(port2).get("venom_organisms").copied().unwrap_or_default() < f64::from(size) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let cold = began.elapsed();
    std::thread::sleep(Duration::from_secs(5));

    let (first, cpu) = (metrics(port2), cpu_seconds(operator.id()));
    std::thread::sleep(MEASURED);
    let (last, cpu) = (metrics(port2), cpu_seconds(operator.id()) - cpu);
    let seconds = MEASURED.as_secs_f64();
    let grown = |name: &str| {
        let sum = |at: &BTreeMap<String, f64>| -> f64 {
            at.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, value)| value).sum()
        };
        sum(&last) - sum(&first)
    };
    println!("\n{size} organisms at 1 Hz");
    println!("  created in {applied:.1?}, all Ready after {taken_up:.1?}, taken up again after {cold:.1?}");
    println!(
        "  beats/s {:.1}, missed {}",
        grown("venom_beats_total") / seconds,
        grown("venom_beats_missed_total")
    );
    println!(
        "  beat deviation p50 ≤ {} ms, p99 ≤ {} ms",
        quantile(&first, &last, 0.5) * 1e3,
        quantile(&first, &last, 0.99) * 1e3
    );
    println!("  {:.0} MiB resident, {:.2} cores", resident_mib(operator.id()), cpu / seconds);
    println!(
        "  writes/s {:.1} (commits ×2 + status), ledger bytes/s {:.0}, bytes a beat {:.1}",
        (2.0 * grown("venom_commits_total") + grown("venom_status_writes_total")) / seconds,
        grown("venom_ledger_written_bytes_total") / seconds,
        grown("venom_ledger_written_bytes_total") / grown("venom_beats_total").max(1.0),
    );
    // While the operator is there to take its finalizers off.
    kubectl(&["delete", "organisms", "--all", "-n", NAMESPACE], None);
    stop(&mut operator);
}

/// The upper bound of the bucket in which the quantile falls.
fn quantile(first: &BTreeMap<String, f64>, last: &BTreeMap<String, f64>, q: f64) -> f64 {
    let mut buckets: Vec<(f64, f64)> = last
        .iter()
        .filter_map(|(key, value)| {
            let bound = key.strip_prefix("venom_beat_deviation_seconds_bucket{le=\"")?.strip_suffix("\"}")?;
            let before = first.get(key).copied().unwrap_or_default();
            Some((bound.parse().unwrap_or(f64::INFINITY), value - before))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = buckets.last().map_or(0.0, |it| it.1);
    buckets.iter().find(|it| it.1 >= q * all).map_or(f64::NAN, |it| it.0)
}

fn start() -> (Child, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|it| it.local_addr())
        .map_or(18_080, |it| it.port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_venom"))
        .args(["operator", "--namespace", NAMESPACE, "--metrics-addr", &format!("127.0.0.1:{port}")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("venom: {error}"));
    let stderr = child.stderr.take();
    std::thread::spawn(move || {
        for line in stderr.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            if line.contains("WARN") || line.contains("ERROR") {
                eprintln!("{line}");
            }
        }
    });
    (child, port)
}

fn stop(child: &mut Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
}

fn ready() -> u32 {
    let path = "{range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let out = kubectl(&["get", "org", "-n", NAMESPACE, "-o", &format!("jsonpath={path}")], None);
    out.lines().filter(|line| *line == "True").count() as u32
}

fn metrics(port: u16) -> BTreeMap<String, f64> {
    let out = Command::new("curl").args(["-s", &format!("http://127.0.0.1:{port}/metrics")]).output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn kubectl(arguments: &[&str], input: Option<&str>) -> String {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("kubectl: {error}"));
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        let input = input.to_owned();
        std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
    }
    let out = child.wait_with_output().unwrap_or_else(|error| panic!("kubectl: {error}"));
    assert!(out.status.success(), "kubectl {arguments:?} failed; is a cluster up and KUBECONFIG set?");
    String::from_utf8_lossy(&out.stdout).into_owned()
}
