//! The seal of a shard: what the bytes of its weights were when they had been packed, and whether they still are.
//!
//! A Merkle tree of SHA-256 over leaves of 32 KiB, in the order in which the weights lie. A round goes over all leaves,
//! a few at a time, and ends with the leaves' own root, so that neither the weights nor what they are compared with
//! can change unseen. It tells of a flipped bit, not of somebody who can write both.

mod bytes;

pub(crate) use bytes::{of, of_mut};

use orchestrion_world::units::Sha256;
use sha2::{Digest, Sha256 as Hasher};

const LEAF: usize = 32 << 10;

#[derive(Debug)]
pub(crate) struct Seal {
    leaves: Vec<[u8; 32]>,
    root: Sha256,
    /// The next leaf to be looked at.
    at: usize,
}

/// Bytes that are not those that were sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leaf {leaf} of {leaves} of the sealed weights is not what it was")]
pub(crate) struct Broken {
    pub(crate) leaf: usize,
    pub(crate) leaves: usize,
}

impl Seal {
    pub(crate) fn of(weights: &[&[u8]]) -> Seal {
        let leaves: Vec<_> = leaves(weights).map(leaf).collect();
        let root = root(&leaves);
        Seal { leaves, root, at: 0 }
    }

    pub(crate) fn root(&self) -> Sha256 {
        self.root
    }

    /// Leaves of a round.
    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Looks at so many leaves, from where it was left on, or at those left of the round, and at its end at the tree as
    /// well: how many it were.
    pub(crate) fn check(&mut self, weights: &[&[u8]], count: usize) -> Result<usize, Broken> {
        let (leaves_in_all, begin) = (self.leaves.len(), self.at);
        let end = (begin + count).min(leaves_in_all);
        let broken = |leaf| Broken { leaf, leaves: leaves_in_all };
        for (n, bytes) in leaves(weights).enumerate().take(end).skip(begin) {
            if self.leaves[n] != leaf(bytes) {
                return Err(broken(n));
            }
        }
        self.at = end;
        if end == leaves_in_all {
            self.at = 0;
            if root(&self.leaves) != self.root {
                return Err(broken(leaves_in_all));
            }
        }
        Ok(end - begin)
    }
}

fn leaves<'w>(weights: &[&'w [u8]]) -> impl Iterator<Item = &'w [u8]> {
    weights.iter().flat_map(|stretch| stretch.chunks(LEAF))
}

/// A leaf is no pair of nodes: what is hashed begins with which it is.
fn leaf(bytes: &[u8]) -> [u8; 32] {
    Hasher::new_with_prefix([0]).chain_update(bytes).finalize().into()
}

fn root(leaves: &[[u8; 32]]) -> Sha256 {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        // Who is left over goes up as it is.
        let node = |pair: &[[u8; 32]]| match pair {
            [left, right] => Hasher::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into(),
            [alone, ..] => *alone,
            [] => [0; 32],
        };
        level = level.chunks(2).map(node).collect();
    }
    Sha256(level.first().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found_within_a_round_and_nothing_else_is() {
        let mut weights = vec![vec![7u8; 3 * LEAF + 5], vec![1; 10], vec![]];
        let view = |weights: &[Vec<u8>]| -> Vec<Vec<u8>> { weights.to_vec() };
        let of = |weights: &[Vec<u8>]| Seal::of(&weights.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (mut seal, same) = (of(&weights), of(&view(&weights)));
        assert_eq!((seal.len(), seal.root()), (5, same.root()));
        for (stretch, byte, leaf) in [(0, 0, 0), (0, LEAF, 1), (0, 3 * LEAF + 4, 3), (1, 9, 4)] {
            weights[stretch][byte] ^= 0x10;
            let refs: Vec<&[u8]> = weights.iter().map(Vec::as_slice).collect();
            let found: Vec<_> = (0..5).filter_map(|_| seal.check(&refs, 1).err()).collect();
            assert_eq!(found.first(), Some(&Broken { leaf, leaves: 5 }));
            assert_ne!(of(&weights).root(), seal.root());
            weights[stretch][byte] ^= 0x10;
            let refs: Vec<&[u8]> = weights.iter().map(Vec::as_slice).collect();
            assert_eq!(seal.check(&refs, 9), Ok(5 - leaf), "from where it was left to the end");
            assert_eq!(seal.at, 0);
        }
        seal.leaves[2][0] ^= 1;
        let refs: Vec<&[u8]> = weights.iter().map(Vec::as_slice).collect();
        assert_eq!(seal.check(&refs, 9), Err(Broken { leaf: 2, leaves: 5 }));
    }
}
