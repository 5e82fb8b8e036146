//! Wrong usage, exit codes, program names, and the smaller commands.

use super::{Place, VENOM};

#[test]
fn wrong_usage_exits_with_2_and_one_line() {
    let place = Place::new();
    for (line, told) in [
        ("run --beats 0", "-1 (for ever)"),
        ("run --beats many", "-1 (for ever)"),
        ("run --bets 3", "a similar argument exists: '--beats'"),
        ("run --t1 NaN", "write a number"),
        ("run --k-flows 1 --p-nodes 1", "stability condition: k·P must be above 1; raise k or add a node"),
        ("run --k-flows 0", "stability condition"),
        ("run --t1 -1", "t1 must be at least 0"),
        ("run -f nowhere.yaml", "nowhere.yaml: No such file"),
        ("ledger verify", "<SOURCE>"),
        ("ledger verify x --root abc", "64 hexadecimal digits"),
        ("ledger verfy x", "a similar subcommand exists: 'verify'"),
        ("operator --write-budget fast", "write a rate per second"),
        ("operator --write-budget 0", "must be 0.1/s to 1000000/s"),
        ("operator --write-budget 1e-20/s", "must be 0.1/s to 1000000/s"),
        ("operator --write-bytes 10", "must be 1Ki/s to 1Gi/s"),
        ("operator --node-image venom:1", "--node-image requires --issuer-url"),
        ("operator --issuer-url https://venom:1/v1/certificates", "--issuer-url requires --node-image"),
        (
            "operator --node-image venom:1 --issuer-url https://venom:1",
            "write https://HOST:PORT/v1/certificates",
        ),
        ("release venom", "write organism/NAME"),
        ("release organism/a --resume --timeout 3s", "cannot be used with"),
        ("release organism/a --timeout 3", "is not a duration"),
        ("fly", "unrecognized subcommand 'fly'"),
    ] {
        let said = place.fails(line, 2);
        assert!(said.starts_with("venom: ") && said.contains(told), "{line}: {said}");
    }
    assert!(!place.ledger().exists());
    // Without a subcommand the help is printed.
    for line in ["", "ledger"] {
        let done = place.venom(line);
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""));
        assert!(done.err.contains("Usage: venom"), "{done:?}");
    }
}

#[test]
fn other_errors_exit_with_1_and_one_line() {
    let place = Place::new();
    std::fs::create_dir(place.path("other")).unwrap();
    place.write("other/file", "");
    for (line, told) in [
        ("ledger verify nowhere", "name a folder, a file, - or organism/NAME"),
        ("ledger verify other", "head.json is missing"),
        ("run --beats 1 --ledger other", "not empty, and not a ledger"),
        ("ledger show organism/venom --kubeconfig nowhere", "kubeconfig: "),
    ] {
        let said = place.fails(line, 1);
        assert!(said.contains(told), "{line}: {said}");
    }
    assert_eq!(std::fs::read_dir(place.path("other")).unwrap().count(), 1);
}

#[test]
fn k_of_1_is_valid_with_two_nodes() {
    Place::new().ok("run --beats 2 --k-flows 1 --p-nodes 2");
}

#[test]
fn runs_as_a_kubectl_plug_in() {
    let place = Place::new();
    let plug_in = place.path("kubectl-venom");
    std::os::unix::fs::symlink(VENOM, &plug_in).unwrap();
    let output = std::process::Command::new(plug_in).args(["run", "--beats", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("kubectl venom: "));
}

#[test]
fn prints_and_writes_the_crds() {
    let place = Place::new();
    let printed = place.ok("crds");
    place.ok("crds --dir made/crds");
    let mut written = String::new();
    for (name, text) in venom::api::crds_yaml().unwrap() {
        assert_eq!(std::fs::read_to_string(place.path(&format!("made/crds/{name}.yaml"))).unwrap(), text);
        written += &format!("---\n{text}");
    }
    assert_eq!(printed, written);
}
