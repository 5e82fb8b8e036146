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
    for under in ["src/mesh", "src/node"] {
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
        if ["gossip.rs", "event.rs", "name.rs"].iter().any(|name| path.ends_with(name)) {
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
fn only_the_committer_and_the_take_over_write_ledger_objects() {
    for (path, text) in sources("src") {
        let may = [
            "operator/committer.rs",
            "operator/committer/merge.rs",
            "operator/takeover.rs",
            "operator/organism.rs",
            "store/configmap.rs",
        ];
        let may = may.iter().any(|it| path.ends_with(it));
        for line in code(&text) {
            let writes = [".put_head(", ".create_head(", ".create_segment(", ".archive_head("];
            assert!(may || !writes.iter().any(|it| line.contains(it)), "{}: {line}", path.display());
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
