//! The house's invariants, as `lib.rs` states them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(under), &mut found);
    assert!(!found.is_empty(), "{under} is empty");
    found
}

/// The lines of code, without comments and without what follows `#[cfg(test)]`.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn assert_absent(under: &str, words: &[&str]) {
    for (path, text) in sources(under) {
        if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        for line in code(&text) {
            for word in words {
                assert!(!line.contains(word), "{}: `{word}` in: {line}", path.display());
            }
        }
    }
}

#[test]
fn engine_and_ledger_know_no_clock_no_io_no_runtime() {
    let words =
        ["std::fs", "std::io", "std::net", "std::time", "tokio", "kube", "HashMap", "SystemTime", "Instant"];
    assert_absent("src/organism", &words);
    assert_absent("src/ledger", &words);
}

#[test]
fn the_mesh_knows_no_kubernetes_and_no_ledger() {
    for under in ["src/mesh", "src/net", "src/node"] {
        assert_absent(
            under,
            &["kube", "k8s", "crate::api", "crate::ledger", "crate::organism", "crate::store"],
        );
    }
}

#[test]
fn the_protocol_of_the_mesh_knows_no_clock_no_io_no_chance() {
    let words = ["std::fs", "std::io", "std::net", "tokio", "SystemTime", "Instant", "fastrand", "HashMap"];
    for (path, text) in sources("src/mesh") {
        let protocol = path.parent().is_some_and(|it| it.ends_with("gossip"));
        if protocol || ["gossip.rs", "shares.rs", "event.rs", "spiffe.rs"].iter().any(|it| path.ends_with(it))
        {
            for line in code(&text) {
                assert!(!words.iter().any(|word| line.contains(word)), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_segment_codec_does_not_use_the_engine() {
    assert_absent("src/ledger/segment", &["organism"]);
}

#[test]
fn the_running_organism_knows_no_clock_no_channel_no_client() {
    let words = ["std::fs", "std::io", "std::net", "SystemTime", "Instant::now", "tokio", "mpsc", "kube::"];
    assert_absent("src/runtime", &words);
}

#[test]
fn training_knows_no_clock_no_io_no_kubernetes() {
    let words =
        ["std::fs", "std::io", "std::net", "std::time", "tokio", "kube", "k8s", "SystemTime", "Instant"];
    assert_absent("src/training", &words);
    // Chance only by a seed.
    assert_absent("src/training", &["fastrand::u64", "Rng::new", "HashMap"]);
}

#[test]
fn only_committer_and_recovery_write_ledger_objects() {
    for (path, text) in sources("src") {
        let parts: Vec<_> = path.components().map(|it| it.as_os_str()).collect();
        let may = ["committer", "recovery"].iter().any(|it| parts.contains(&std::ffi::OsStr::new(it)));
        let may = may || path.ends_with("store/configmap.rs");
        for line in code(&text) {
            let writes =
                [".put_head(", ".create_head(", ".create_segment(", ".archive_head(", ".write_owner("];
            assert!(may || !writes.iter().any(|it| line.contains(it)), "{}: {line}", path.display());
        }
    }
}

#[test]
fn only_publisher_and_controllers_write_a_status() {
    for (path, text) in sources("src") {
        let may =
            path.components().any(|it| ["publisher", "controllers"].iter().any(|may| it.as_os_str() == *may));
        for line in code(&text) {
            assert!(may || !line.contains("patch_status("), "{}: {line}", path.display());
        }
    }
}

/// Imports between the parts of `src/operator`, and between the top-level modules, form no circle. No file of the
/// product is exempt; a test may compare what it tests with anything.
#[test]
fn imports_go_one_way() {
    let operator = imports::graph("operator");
    imports::assert_no_circle("src/operator", &operator);
    let data = ["controllers", "actor", "beater", "committer", "publisher"];
    for pair in data.windows(2) {
        assert!(operator[pair[0]].contains(pair[1]), "{} no longer imports {}", pair[0], pair[1]);
    }
    imports::assert_no_circle("src", &imports::graph(""));
}

/// The import graph, read from `use` statements and paths in the code.
mod imports {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::{code, sources};

    pub type Graph = BTreeMap<String, BTreeSet<String>>;

    /// Which part of `module` (of the crate, where that is empty) imports which. A part is a file or a folder.
    pub fn graph(module: &str) -> Graph {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let depth = usize::from(!module.is_empty());
        let mut graph = Graph::new();
        for (path, text) in sources(&format!("src/{module}")) {
            let file = path.strip_prefix(&root).unwrap().with_extension("");
            let mut own: Vec<String> = file.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if own.last().is_some_and(|last| last == "mod") {
                own.pop();
            }
            if own.last().is_some_and(|last| last == "tests") {
                continue;
            }
            // The module's own file declares its parts and wires them; nothing may import from it.
            if own.len() <= depth || ["lib", "main"].contains(&own[0].as_str()) {
                continue;
            }
            let imported = graph.entry(own[depth].clone()).or_default();
            for target in paths(&text).iter().filter_map(|path| resolve(&own, path)) {
                if target.len() > depth && (depth == 0 || target[0] == module) && target[depth] != own[depth]
                {
                    imported.insert(target[depth].clone());
                }
            }
        }
        graph
    }

    pub fn assert_no_circle(what: &str, graph: &Graph) {
        for (part, imported) in graph {
            for target in imported {
                assert!(graph.contains_key(target), "{what}: {part} imports {target} from the wiring");
            }
        }
        let mut left = graph.clone();
        // Parts that import nothing that is left are taken away, until none is left.
        while let Some(leaf) = left
            .iter()
            .find(|(_, to)| to.iter().all(|it| !left.contains_key(it)))
            .map(|(part, _)| part.clone())
        {
            left.remove(&leaf);
        }
        assert!(left.is_empty(), "{what}: a circle among {:?}", left.keys().collect::<Vec<_>>());
    }

    /// The module that `path` names, seen from the module `own`, as parts below `src/`.
    fn resolve(own: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = own.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "super" => {
                while rest.first().is_some_and(|it| it == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            "self" => rest = &rest[1..],
            _ => return None,
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// All paths in a file that start with `crate`, `self` or `super`, with braces expanded.
    fn paths(text: &str) -> Vec<Vec<String>> {
        let text: String = code(text).collect::<Vec<_>>().join(" ");
        let mut found = vec![];
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in text.match_indices(start) {
                let before = text[..at].chars().next_back();
                if before.is_none_or(|it| !it.is_alphanumeric() && it != '_' && it != ':') {
                    expand(&text[at..], &[], &mut found);
                }
            }
        }
        found
    }

    /// Reads one path, or the list in its braces. Returns what follows it.
    fn expand<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
        let text = text.trim_start();
        if let Some(mut list) = text.strip_prefix('{') {
            loop {
                list = expand(list, prefix, found).trim_start();
                match list.chars().next() {
                    Some(',') => list = &list[1..],
                    Some('}') => return &list[1..],
                    _ => return list,
                }
            }
        }
        let end = text.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let mut path = prefix.to_vec();
        if !name.is_empty() {
            path.push(name.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(rest) if !name.is_empty() => expand(rest, &path, found),
            _ => {
                found.push(path);
                // `name as other`
                let rest = rest.trim_start();
                rest.strip_prefix("as ").map_or(rest, |rest| {
                    rest.trim_start().trim_start_matches(|it: char| it.is_alphanumeric() || it == '_')
                })
            }
        }
    }
}

/// What people read passes [`printable`], and what is printed as it is, is data.
#[test]
fn commands_print_in_one_way() {
    let terminals = ["cli/output.rs", "cli/log.rs", "cli/ledger/progress.rs", "cli/run/progress.rs"];
    let data =
        ["cli/mod.rs", "cli/crds.rs", "cli/ledger/export.rs", "cli/ledger/show.rs", "cli/ledger/verify.rs"];
    for (path, text) in sources("src") {
        if path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let is = |files: &[&str]| files.iter().any(|it| path.ends_with(it));
        for line in code(&text) {
            let terminal = ["stdout()", "stderr()", "println!", "print!"].iter().any(|it| line.contains(it));
            assert!(!terminal || is(&terminals), "{}: {line}", path.display());
            assert!(!line.contains("output::data()") || is(&data), "{}: {line}", path.display());
        }
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in sources("src") {
        let lines = text.lines().count();
        assert!(lines <= 520, "{} has {lines} lines", path.display());
    }
}

#[test]
fn exp_and_ln_are_pinned() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    assert!(manifest.contains("libm = \"=0."), "libm has to be pinned with `=`");
    assert!(manifest.contains("float_roundtrip"), "serde_json has to read floats exactly");
    assert!(manifest.contains("panic = \"unwind\""), "a core that panics must not end the operator");
}

/// Bits of exp and ln at a few places: another libm, or another compiler's idea of one, would show here.
#[test]
fn exp_and_ln_give_the_same_bits() {
    for (x, exp, ln) in [
        (0.5_f64, 0x3ffa_6129_8e1e_069c_u64, 0xbfe6_2e42_fefa_39ef_u64),
        (2.4, 0x4026_0bdd_c649_ca68, 0x3fec_03d7_0373_5f8c),
        (54.598_150_033_144_236, 0x44db_416e_6831_e2e9, 0x4010_0000_0000_0000),
    ] {
        assert_eq!(libm::exp(x).to_bits(), exp, "exp({x}): {:#x}", libm::exp(x).to_bits());
        assert_eq!(libm::log(x).to_bits(), ln, "ln({x}): {:#x}", libm::log(x).to_bits());
    }
}
