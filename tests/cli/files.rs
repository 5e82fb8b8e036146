//! Files that commands write: replaced as a whole or left as they were.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::{Done, Place};

/// The names of the files in the working folder.
fn names(place: &Place) -> Vec<String> {
    let list = fs::read_dir(place.0.path()).unwrap();
    let mut names: Vec<_> = list.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A place with a ledger of 85 entries as a folder and as `l.jsonl`. Returns the content of the latter.
fn exported() -> (Place, String) {
    let place = Place::new();
    place.ok("run --beats 12");
    place.ok("ledger export venom-ledger -o l.jsonl");
    let lines = fs::read_to_string(place.path("l.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 85);
    (place, lines)
}

#[test]
fn an_export_does_not_write_over_its_source() {
    let (place, lines) = exported();
    symlink("l.jsonl", place.path("soft.jsonl")).unwrap();
    fs::hard_link(place.path("l.jsonl"), place.path("hard.jsonl")).unwrap();
    symlink("venom-ledger/segments", place.path("short")).unwrap();
    fs::hard_link(place.path("venom-ledger/head.json"), place.path("head-too.json")).unwrap();
    let before = names(&place);
    for (line, told) in [
        ("l.jsonl -o l.jsonl", "l.jsonl is the source; write to another file"),
        ("l.jsonl -o ./venom-ledger/../l.jsonl", "is the source"),
        ("l.jsonl -o soft.jsonl", "is the source"),
        ("soft.jsonl -o l.jsonl", "is the source"),
        ("l.jsonl -o hard.jsonl", "is the source"),
        ("venom-ledger -o venom-ledger/l.jsonl", "is in the folder of the source"),
        ("venom-ledger -o venom-ledger/head.json", "is in the folder of the source"),
        ("venom-ledger/. -o short/l.jsonl", "is in the folder of the source"),
        ("venom-ledger -o head-too.json", "is in the folder of the source"),
    ] {
        let said = place.fails(&format!("ledger export {line}"), 1);
        assert!(said.contains(told), "{line}: {said}");
    }
    // The shell opens these two: `venom ledger export - -o l.jsonl < l.jsonl`, `venom ledger export l.jsonl >> l.jsonl`.
    let open = || fs::File::options().append(true).read(true).open(place.path("l.jsonl")).unwrap();
    for (line, stdin, stdout) in [
        ("ledger export - -o l.jsonl", Stdio::from(open()), Stdio::piped()),
        ("ledger export l.jsonl", Stdio::null(), Stdio::from(open())),
    ] {
        let mut command = place.command(line);
        let done: Done = command.stdin(stdin).stdout(stdout).output().unwrap().into();
        assert_eq!(done.code, Some(1), "{line}: {done:?}");
        assert!(done.err.contains("is the source"), "{line}: {done:?}");
    }
    assert_eq!(fs::read_to_string(place.path("l.jsonl")).unwrap(), lines);
    assert_eq!(names(&place), before);
    place.ok("ledger verify venom-ledger");
}

#[test]
fn a_failed_export_leaves_the_old_file() {
    let (place, lines) = exported();
    place.write("cut.jsonl", &lines[..lines.len() - 5]);
    place.write(
        "gap.jsonl",
        &lines
            .lines()
            .filter(|it| !it.contains(r#""index":40,"#))
            .fold(String::new(), |all, it| all + it + "\n"),
    );
    place.write("empty.jsonl", "");
    place.write("yesterday.jsonl", "kept\n");
    let before = names(&place);
    for (line, told) in [
        ("nowhere -o yesterday.jsonl", "nowhere"),
        ("organism/typo --kubeconfig nowhere -o yesterday.jsonl", "kubeconfig: "),
        ("cut.jsonl -o yesterday.jsonl", "cut.jsonl:85: not an entry"),
        ("cut.jsonl -o new.jsonl", "cut.jsonl:85: not an entry"),
        ("gap.jsonl -o yesterday.jsonl", "expected entry 40, found entry 41"),
        ("empty.jsonl -o yesterday.jsonl", "empty.jsonl: contains no entry"),
        ("l.jsonl -o missing/new.jsonl", "missing/new.jsonl: No such file"),
        ("l.jsonl -o venom-ledger", "venom-ledger: Is a directory"),
    ] {
        let said = place.fails(&format!("ledger export {line}"), 1);
        assert!(said.contains(told), "{line}: {said}");
    }
    let stdin = fs::File::open(place.path("cut.jsonl")).unwrap();
    let done: Done =
        place.command("ledger export - -o yesterday.jsonl").stdin(stdin).output().unwrap().into();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.starts_with("venom: stdin:85: not an entry"), "{done:?}");
    // A folder with a damaged segment and nothing to begin from after it.
    let segment = fs::read_dir(place.path("venom-ledger/segments")).unwrap().next().unwrap().unwrap().path();
    fs::write(segment, "damaged").unwrap();
    place.fails("ledger export venom-ledger -o yesterday.jsonl", 1);
    assert_eq!(fs::read_to_string(place.path("yesterday.jsonl")).unwrap(), "kept\n");
    assert_eq!(names(&place), before);
}

/// The file system is full in the middle of the export.
#[test]
fn a_full_disk_leaves_the_old_file() {
    let (place, lines) = exported();
    place.write("yesterday.jsonl", "kept\n");
    let before = names(&place);
    // A limit on the size of files; with SIGXFSZ ignored, a write past it fails as on a full disk.
    let script =
        format!("trap '' XFSZ; ulimit -f 8; exec {} ledger export l.jsonl -o yesterday.jsonl", super::VENOM);
    assert!(lines.len() > 8 * 1024);
    let done: Done = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(&place.0)
        .output()
        .unwrap()
        .into();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.starts_with("venom: yesterday.jsonl: File too large"), "{done:?}");
    assert_eq!(fs::read_to_string(place.path("yesterday.jsonl")).unwrap(), "kept\n");
    assert_eq!(names(&place), before);
}

#[test]
fn an_export_replaces_an_older_one() {
    let (place, lines) = exported();
    place.write("yesterday.jsonl", &"long\n".repeat(100_000));
    place.ok("ledger export venom-ledger -o yesterday.jsonl");
    assert_eq!(fs::read_to_string(place.path("yesterday.jsonl")).unwrap(), lines);
    place.ok("ledger export venom-ledger -o /dev/null");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

/// `crds --dir` and `mesh init` write their files in the same way.
#[test]
fn other_commands_leave_what_they_cannot_replace() {
    let place = Place::new();
    place.ok("crds --dir crds");
    place.ok("mesh init mesh --nodes 1");
    let files = |folder: &str| -> Vec<_> {
        let list = fs::read_dir(place.path(folder)).unwrap().map(|it| it.unwrap().path());
        let mut files: Vec<_> =
            list.filter(|it| it.is_file()).map(|it| (it.clone(), fs::read_to_string(&it).unwrap())).collect();
        files.sort();
        files
    };
    for (folder, line) in [("crds", "crds --dir crds"), ("mesh/node-1", "mesh init mesh --nodes 1")] {
        let before = files(folder);
        assert!(!before.is_empty());
        let script = format!("trap '' XFSZ; ulimit -f 0; exec {} {line}", super::VENOM);
        let done: Done = std::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(&place.0)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into();
        assert_eq!(done.code, Some(1), "{line}: {done:?}");
        assert_eq!(files(folder), before, "{line}");
    }
}
