//! What may come next, looked up in what was there: answers repeat their prompt and themselves (prompt lookup,
//! Saxena 2023).
//!
//! A draft runs beside the token before it, for a part of what tokens one after the other would cost, and is taken
//! as far as it is what would have been drawn: it changes no token. How long it is follows what came of those before.
//! Reads one task's tokens.

/// Tokens that must have stood together before, the longer of which is looked for first.
const GRAMS: [usize; 2] = [3, 2];
/// The longest draft.
const LONGEST: usize = 8;
/// Drafts left out after so many that were wrong from the start.
const LONGEST_PAUSE: u32 = 32;

/// How one task's drafts fare.
#[derive(Debug)]
pub(super) struct Drafter {
    length: usize,
    pause: u32,
    /// Of `pause`, what is still to be left out.
    left: u32,
}

impl Drafter {
    pub(super) fn new() -> Drafter {
        Drafter { length: 4, pause: 0, left: 0 }
    }

    /// Up to `most` tokens that may follow `tokens`.
    pub(super) fn draft(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        let most = most.min(self.length);
        let Some(from) = (most > 0).then(|| seen(tokens)).flatten() else { return Vec::new() };
        if self.left > 0 {
            self.left -= 1;
            return Vec::new();
        }
        // Where it comes to the end it goes on with itself: what repeats goes round.
        tokens[from..].iter().copied().cycle().take(most).collect()
    }

    /// Hears how much of a draft was right.
    pub(super) fn fared(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        self.length = if accepted == drafted { LONGEST.min(2 * drafted.max(2)) } else { accepted + 1 };
        self.pause = if accepted > 0 { 0 } else { LONGEST_PAUSE.min(2 * self.pause + 1) };
        self.left = self.pause;
    }
}

/// What followed when the last tokens stood together the last time.
fn seen(tokens: &[u32]) -> Option<usize> {
    GRAMS.into_iter().find_map(|n| {
        let at = tokens.len().checked_sub(n)?;
        let before = &tokens[..tokens.len() - 1];
        before.windows(n).rposition(|window| window == &tokens[at..]).map(|found| found + n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_what_followed_the_last_time() {
        let mut drafter = Drafter::new();
        let tokens = [1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 8, 8, 8, 8, 5, 1, 2, 3];
        assert_eq!(drafter.draft(&tokens, 4), [8, 8, 8, 8]);
        assert_eq!(drafter.draft(&tokens, 2), [8, 8]);
        // Two together are enough, one is not.
        assert_eq!(drafter.draft(&[4, 1, 2, 3, 6, 1, 2], 4), [3, 6, 1, 2]);
        assert!(drafter.draft(&[4, 1, 2, 3, 6, 7, 2], 4).is_empty());
        // What repeats goes round.
        assert_eq!(drafter.draft(&[7, 8, 7, 8, 7], 4), [8, 7, 8, 7]);
        assert_eq!(drafter.draft(&[7, 7, 7], 4), [7; 4]);
        for (tokens, most) in [(&[][..], 4), (&[1], 4), (&[1, 1, 1], 0)] {
            assert!(drafter.draft(tokens, most).is_empty());
        }
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_pause_while_they_are_wrong() {
        let mut drafter = Drafter::new();
        let tokens = [7; 40];
        let length = |drafter: &mut Drafter| drafter.draft(&tokens, 100).len();
        assert_eq!(length(&mut drafter), 4);
        drafter.fared(4, 4);
        assert_eq!(length(&mut drafter), 8);
        drafter.fared(8, 2);
        assert_eq!(length(&mut drafter), 3);
        for pause in [1, 3, 7, 15, 31, 32, 32] {
            drafter.fared(1, 0);
            assert_eq!((0..pause).map(|_| length(&mut drafter)).sum::<usize>(), 0);
            assert_eq!(length(&mut drafter), 1);
        }
        drafter.fared(1, 1);
        assert_eq!(length(&mut drafter), 4);
    }
}
