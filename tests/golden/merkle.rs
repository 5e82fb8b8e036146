use sha3::{Digest, Sha3_256};
use venom::ledger::hex;
use venom::ledger::merkle::Tree;

use super::{json, list};

#[test]
fn merkle_roots() {
    let file = json("merkle.json");
    let largest = list(&file, "roots").iter().filter_map(|case| case["size"].as_u64()).max().unwrap();
    let mut tree = Tree::default();
    for size in 0..=largest {
        for case in list(&file, "roots").iter().filter(|case| case["size"] == size) {
            assert_eq!(hex(&tree.root()), case["root"], "{size} leaves");
        }
        tree.push(&Sha3_256::digest(format!("golden leaf {size}")).into());
    }
}
