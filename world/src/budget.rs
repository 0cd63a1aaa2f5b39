//! Budgets: what may be used in all of tokens, of time on slots, and of money. What a task may need at most is
//! reserved when it is admitted and what it used is settled at its end, so that no budget is ever overdrawn.

use crate::config::{RulesError, within};
use crate::time::Ticks;
use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Of prompts and answers.
    Tokens,
    /// Ticks on slots.
    Time,
    /// Millionths of a milli-unit, so that a single token has a price.
    Cost,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Tokens, Kind::Time, Kind::Cost];
}

/// [`Kind::Cost`] in a milli-unit.
pub const COST_PER_MILLI: u64 = 1_000_000;

/// So much of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount(pub [u64; 3]);

/// What is left of each kind, where it is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left(pub [Option<u64>; 3]);

impl Left {
    /// The scarcer of two, kind by kind.
    pub fn least(self, other: Left) -> Left {
        let least = |kind: Kind| [self.0[kind as usize], other.0[kind as usize]].into_iter().flatten().min();
        Left(Kind::ALL.map(least))
    }

    pub fn of(&self, kind: Kind) -> Option<u64> {
        self.0[kind as usize]
    }
}

/// What may be used in all. Where nothing is said there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub tokens: Option<u64>,
    pub time: Option<Ticks>,
    /// Milli-units of a currency of the operator's.
    pub cost_milli: Option<u64>,
}

/// More than anybody has; every sum of such amounts stays within 64 bits.
const MOST: u64 = 1 << 40;

impl Budget {
    fn limits(&self) -> [Option<u64>; 3] {
        [self.tokens, self.time.map(|time| time.0), self.cost_milli.map(|cost| cost.saturating_mul(COST_PER_MILLI))]
    }

    pub(crate) fn check(&self) -> Result<(), RulesError> {
        within("a budget of tokens", self.tokens.unwrap_or_default(), 0, MOST)?;
        within("a budget of time", self.time.unwrap_or_default().0, 0, MOST)?;
        within("a budget of cost", self.cost_milli.unwrap_or_default(), 0, MOST)
    }
}

/// What tokens cost, in milli-units a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub prompt: u32,
    pub answer: u32,
}

impl Price {
    pub fn of(self, prompt: u32, answer: u32) -> u64 {
        (u64::from(self.prompt) * u64::from(prompt)).saturating_add(u64::from(self.answer) * u64::from(answer))
    }
}

/// A budget and what was taken of it: `spent + reserved` never exceeds the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    limits: [Option<u64>; 3],
    pub spent: Amount,
    pub reserved: Amount,
}

impl Account {
    pub fn new(budget: &Budget) -> Account {
        Account { limits: budget.limits(), ..Account::default() }
    }

    /// Goes by another budget from here on. What was given stays given: less than that it cannot be.
    pub fn set(&mut self, budget: &Budget) {
        let limits = budget.limits();
        self.limits = Kind::ALL.map(|kind| limits[kind as usize].map(|limit| limit.max(self.taken(kind))));
    }

    fn taken(&self, kind: Kind) -> u64 {
        self.spent.0[kind as usize].saturating_add(self.reserved.0[kind as usize])
    }

    pub fn left(&self) -> Left {
        Left(Kind::ALL.map(|kind| Some(self.limits[kind as usize]?.saturating_sub(self.taken(kind)))))
    }

    /// The first kind of which there is less left than `amount`, with what is left.
    pub fn lacks(&self, amount: &Amount) -> Option<(Kind, u64)> {
        let left = self.left();
        Kind::ALL
            .into_iter()
            .find_map(|kind| Some((kind, left.of(kind).filter(|left| *left < amount.0[kind as usize])?)))
    }

    /// Whether it is limited at all.
    pub fn is_open(&self) -> bool {
        self.limits == [None; 3]
    }

    pub fn reserve(&mut self, amount: &Amount) {
        self.reserved.0.iter_mut().zip(amount.0).for_each(|(held, more)| *held = held.saturating_add(more));
    }

    /// Gives a reservation back and takes what was used, up to the limit: a task may hold its slot longer than
    /// anybody could know, and what it took beyond the budget is not paid by whoever comes next.
    pub fn settle(&mut self, reserved: &Amount, used: &Amount) {
        for kind in Kind::ALL.map(|kind| kind as usize) {
            self.reserved.0[kind] = self.reserved.0[kind].saturating_sub(reserved.0[kind]);
            let most =
                self.limits[kind].map(|l| l.saturating_sub(self.spent.0[kind].saturating_add(self.reserved.0[kind])));
            let charged = used.0[kind].min(most.unwrap_or(u64::MAX));
            self.spent.0[kind] = self.spent.0[kind].saturating_add(charged);
        }
    }

    /// Whether no limit is exceeded.
    pub fn holds(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.limits[kind as usize].is_none_or(|limit| self.taken(kind) <= limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_account_is_ever_overdrawn(
            limit in 0u64..1_000,
            moves in prop::collection::vec((0u64..200, 0u64..400, 0u8..3), 0..100),
        ) {
            let budget = |tokens| Budget { tokens: Some(tokens), ..Budget::default() };
            let (mut account, mut open) = (Account::new(&budget(limit)), vec![]);
            for (amount, used, kind) in moves {
                let amount = Amount([amount, 1, 1]);
                match kind {
                    0 if account.lacks(&amount).is_none() => {
                        account.reserve(&amount);
                        open.push(amount);
                    }
                    1 => open.pop().into_iter().for_each(|held| account.settle(&held, &Amount([used, 7, 7]))),
                    _ => account.set(&budget(used)),
                }
                prop_assert!(account.holds(), "{account:?}");
                let reserved: u64 = open.iter().map(|held| held.0[0]).sum();
                prop_assert_eq!(account.reserved.0[0], reserved);
            }
        }
    }

    #[test]
    fn what_was_reserved_and_not_used_comes_back() {
        let mut account = Account::new(&Budget { tokens: Some(100), cost_milli: Some(1), ..Budget::default() });
        let price = Price { prompt: 1_000, answer: 20_000 };
        let most = Amount([60, 5_000, price.of(10, 50)]);
        assert_eq!(account.lacks(&most), Some((Kind::Cost, COST_PER_MILLI)), "1,010,000 of 1,000,000");
        let most = Amount([60, 5_000, price.of(10, 40)]);
        account.reserve(&most);
        assert_eq!(account.left(), Left([Some(40), None, Some(190_000)]));
        account.settle(&most, &Amount([15, 900, price.of(10, 5)]));
        assert_eq!(account.left(), Left([Some(85), None, Some(890_000)]));
        account.set(&Budget { tokens: Some(3), ..Budget::default() });
        assert_eq!(account.left(), Left([Some(0), None, None]), "a smaller budget is used up, not overdrawn");
    }
}
