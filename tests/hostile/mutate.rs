//! Changes of bytes, also for `tests/fuzz`.

/// Changes some bytes: flips, runs, removals, copies of other parts.
pub fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.usize(..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        let run = at..(at + rng.usize(..9)).min(bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[run].fill([0, 0xff, 0x7f, 0x80, b'9'][rng.usize(..5)]),
            2 => drop(bytes.drain(run)),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, rng.u8(..)),
            _ => {
                let from = rng.usize(..bytes.len());
                let copy = bytes[from..(from + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}
