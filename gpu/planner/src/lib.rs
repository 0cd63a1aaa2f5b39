//! What the next step of an engine runs: one token of every answer in progress, prompts in chunks beside
//! them, and whoever waits as soon as there are pages for all that it has to read.
//!
//! A pure function of its tasks and its memory. Real stations and simulated ones run it, so that a simulation
//! batches as production does. Knows no clock, no device and no token; what a step answers does not depend
//! on what it plans.
//!
//! A prompt delays the next tokens of answers beside it, so a step reads little of it; where nobody answers, more of the
//! first one, which is faster. The others begin no sooner for it, and may find there what they share.
//! Who goes first: interactive before batch, in each the order of arrival. So that batch prompts are read at
//! all, an eighth of a step's prompt tokens is theirs while any waits. Where the pages run out, the last in
//! that order gives its own back and reads all that it knows once more, later.

use orchestrion_world::protocol::Class;
use orchestrion_world::units::MilliRate;

/// Prompt tokens in a step beside answers: a neighbour's next token waits for no more than this.
pub const CHUNK: u32 = 64;

/// Where nobody answers on a device, a step reads so many times as much of the first prompt.
pub const ALONE: u32 = 4;

/// A step should take no longer: cancels and beats wait for its end.
const STEP_MS: u64 = 250;

/// Of a step's prompt tokens, the part that batch prompts have while there are interactive ones.
const BATCH_SHARE: u32 = 8;

/// Prompt tokens in a step beside answers, where a machine that is fast enough has `most`: a slow one gets fewer, which
/// changes no token.
pub fn budget(prefill: MilliRate, most: u32) -> u32 {
    // Thousandths of tokens a second, times milliseconds.
    let in_a_step = prefill.0.saturating_mul(STEP_MS) / 1_000_000 / u64::from(ALONE);
    u32::try_from(in_a_step).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

/// A task as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub class: Class,
    /// Tokens of its prompt, and of its answer so far.
    pub known: u32,
    /// Of those, read. With one left to read it makes a token in the step that reads it.
    pub read: u32,
    /// Pages that it holds; none while it waits.
    pub pages: u32,
    /// Of those, the ones that nobody else holds.
    pub own: u32,
}

/// What a step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Prompt tokens beside answers, at least one.
    pub budget: u32,
    /// How many times as many of the first prompt where none of the tasks answers: `ALONE`, or one beside other models'
    /// answers.
    pub alone: u32,
    /// Pages that nobody holds.
    pub free: u32,
    /// Positions in a page.
    pub page: u32,
}

/// What a step has for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Wait,
    /// It takes pages for all that it knows, and reads so many tokens.
    Begin(u32),
    /// It reads so many more tokens.
    Run(u32),
    /// It gives its pages back and waits: what it has read is to be read again.
    GiveWay,
}

impl Turn {
    /// Tokens that it reads.
    pub fn tokens(self) -> u32 {
        match self {
            Turn::Begin(tokens) | Turn::Run(tokens) => tokens,
            Turn::Wait | Turn::GiveWay => 0,
        }
    }
}

/// A step. Kept from step to step for its memory's sake.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// For each row, in their order.
    pub turns: Vec<Turn>,
    /// Rows by who goes first.
    order: Vec<usize>,
}

/// What a step has left.
struct Left {
    budget: u32,
    /// Pages for those who wait; none where somebody who went first lacks some.
    free: Option<u32>,
    /// Tasks that hold pages.
    running: u32,
}

impl Row {
    fn waits(&self) -> bool {
        self.pages == 0
    }

    fn left(&self) -> u32 {
        self.known - self.read
    }

    /// Whether it reads the last token that it made.
    pub fn answers(&self) -> bool {
        !self.waits() && self.left() == 1
    }
}

impl StepPlan {
    /// Plans a step for `rows`, which are in order of arrival.
    pub fn plan(&mut self, rows: &[Row], limits: Limits) {
        self.turns.clear();
        // By far the commonest step: nobody has a prompt to read, and there is a page for each.
        if rows.len() <= limits.free as usize && rows.iter().all(Row::answers) {
            return self.turns.resize(rows.len(), Turn::Run(1));
        }
        self.turns.resize(rows.len(), Turn::Wait);
        self.order.clear();
        for class in [Class::Interactive, Class::Batch] {
            self.order.extend((0..rows.len()).filter(|i| rows[*i].class == class));
        }
        let free = self.grow(rows, limits);
        let gave_way = self.turns.contains(&Turn::GiveWay);
        let reads = |i: &usize| !rows[*i].answers() && self.turns[*i] != Turn::GiveWay;
        let batch = self.order.iter().any(|i| rows[*i].class == Class::Batch && reads(i));
        let kept = if batch { limits.budget.div_ceil(BATCH_SHARE).min(limits.budget - 1) } else { 0 };
        let running = (0..rows.len()).filter(|i| self.holds(rows, *i)).count() as u32;
        // Pages that were given back are for those who lacked them.
        let free = if gave_way { None } else { Some(free) };
        let mut left = Left { budget: limits.budget - kept, free, running };
        let alone = if rows.iter().any(Row::answers) { 1 } else { limits.alone };
        self.read(rows, limits.page, (Class::Interactive, alone), &mut left);
        if batch {
            left.budget += kept;
            self.read(rows, limits.page, (Class::Batch, alone), &mut left);
            self.read(rows, limits.page, (Class::Interactive, 1), &mut left);
        }
    }

    /// Pages for who runs, first come first served, at the cost of the last; gives what is left.
    fn grow(&mut self, rows: &[Row], limits: Limits) -> u32 {
        let mut free = limits.free;
        let mut last = self.order.len();
        for at in 0..self.order.len() {
            let i = self.order[at];
            if rows[i].waits() || self.turns[i] == Turn::GiveWay {
                continue;
            }
            let lacks = rows[i].known.div_ceil(limits.page).saturating_sub(rows[i].pages);
            while lacks > free && last > at {
                last -= 1;
                let victim = self.order[last];
                if !rows[victim].waits() {
                    self.turns[victim] = Turn::GiveWay;
                    free += rows[victim].own;
                }
            }
            if self.turns[i] != Turn::GiveWay {
                free -= lacks;
                self.turns[i] = if rows[i].answers() { Turn::Run(1) } else { Turn::Wait };
            }
        }
        free
    }

    /// Deals prompt tokens out to a class, to its first so many times as many. Who waits begins where there are pages for
    /// all of it, and one more for each who runs, who would else put it back at once; nobody behind it begins before it.
    fn read(&mut self, rows: &[Row], page: u32, (class, mut times): (Class, u32), left: &mut Left) {
        for i in self.order.iter().copied().filter(|i| rows[*i].class == class) {
            let row = &rows[i];
            let before = self.turns[i];
            if left.budget == 0 || row.answers() || before == Turn::GiveWay {
                continue;
            }
            let tokens = left.budget.saturating_mul(times).min(row.left() - before.tokens());
            if self.holds(rows, i) {
                self.turns[i] = match before {
                    Turn::Begin(read) => Turn::Begin(read + tokens),
                    Turn::Wait | Turn::Run(_) | Turn::GiveWay => Turn::Run(before.tokens() + tokens),
                };
            } else {
                let needs = row.known.div_ceil(page);
                let rest = left.free.and_then(|free| free.checked_sub(needs));
                left.free = rest.filter(|rest| *rest >= left.running);
                if left.free.is_none() {
                    continue;
                }
                left.running += 1;
                self.turns[i] = Turn::Begin(tokens);
            }
            left.budget = left.budget.saturating_sub(tokens);
            times = 1;
        }
    }

    /// Whether it has pages after the step.
    fn holds(&self, rows: &[Row], i: usize) -> bool {
        match self.turns[i] {
            Turn::Begin(_) => true,
            Turn::GiveWay => false,
            Turn::Wait | Turn::Run(_) => !rows[i].waits(),
        }
    }

    /// For how many steps, at most `most`, this plan of `rows` is the plan, if all answers go on: one where a
    /// prompt is read or somebody gives way, else until the pages run out.
    pub fn lasts(&self, rows: &[Row], limits: Limits, most: u64) -> u64 {
        let changes = |(row, turn): (&Row, &Turn)| match turn {
            Turn::Wait => !row.waits(),
            Turn::Begin(_) | Turn::GiveWay => true,
            Turn::Run(_) => !row.answers(),
        };
        if most <= 1 || rows.iter().zip(&self.turns).any(changes) {
            return 1;
        }
        let running = || rows.iter().filter(|row| !row.waits());
        let free = u64::from(limits.free);
        let page = u64::from(limits.page);
        if (most / page + 1).saturating_mul(running().count() as u64) <= free {
            return most;
        }
        let fits = |steps: u64| {
            let pages = |row: &Row| (u64::from(row.known) + steps - 1).div_ceil(page);
            running().map(|row| pages(row).saturating_sub(row.pages.into())).sum::<u64>() <= free
        };
        let (mut lasts, mut ends) = (1, most + 1);
        while ends - lasts > 1 {
            let middle = lasts + (ends - lasts) / 2;
            if fits(middle) { lasts = middle } else { ends = middle }
        }
        lasts
    }
}

#[cfg(test)]
mod tests;
