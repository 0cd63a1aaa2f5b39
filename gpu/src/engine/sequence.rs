//! What the engine knows of a sequence: its pages, how far it has read, and the blocks that its tokens make.
//!
//! Works on the pool of pages; runs nothing.

use crate::kv::{Block, PAGE, PageId, Pages, pages_of};
use crate::model::pooling::Pooled;

#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) table: Vec<PageId>,
    pub(super) read: u32,
    /// Tokens of the last step behind those, whose place in the pages is written and which may yet be accepted.
    pub(super) draft: Vec<u32>,
    /// None where it shares with nobody, or what it holds is of no use to anybody.
    chain: Option<Chain>,
    /// What is pooled of its last hidden states, where one vector is to be made of it.
    pub(super) pooled: Option<Pooled>,
    /// What an encoder has of an input that is not whole, and how long that is.
    input: Vec<u32>,
    input_tokens: u32,
}

/// Tokens on their way to becoming a block.
#[derive(Debug)]
struct Chain {
    last: Block,
    /// Read after it.
    tokens: Vec<u32>,
}

impl Sequence {
    /// A sequence of which one vector is made. It shares with nobody: all its hidden states are needed.
    pub(super) fn pooled(tokens: u32) -> Sequence {
        Sequence { pooled: Some(Pooled::default()), input_tokens: tokens, ..Sequence::default() }
    }

    /// Keeps a token of an input that is read as a whole.
    pub(super) fn gather(&mut self, token: u32) {
        self.read += 1;
        self.input.push(token);
    }

    /// The input, once, where all of it is there.
    pub(super) fn whole(&mut self) -> Option<Vec<u32>> {
        (self.input.len() == self.input_tokens as usize).then(|| std::mem::take(&mut self.input))
    }

    /// A sequence about to read `prompt`, whose blocks it takes as far as they are known. The last token is
    /// read in any case, since the answer follows from it.
    pub(super) fn after(pages: &mut Pages, salt: u64, prompt: &[u32]) -> Sequence {
        let (blocks, _) = prompt.as_chunks::<PAGE>();
        let (mut table, mut chain) = (Vec::new(), vec![Block::root(salt)]);
        for block in blocks {
            let next = chain[table.len()].then(block);
            let Some(page) = pages.find(next) else { break };
            table.push(page);
            chain.push(next);
        }
        let read = (table.len() * PAGE).min(prompt.len().saturating_sub(1));
        let whole = read / PAGE;
        let tokens = prompt[whole * PAGE..read].to_vec();
        let chain = Some(Chain { last: chain[whole], tokens });
        Sequence { table, read: read as u32, chain, ..Sequence::default() }
    }

    /// Whether others read the page that it writes to next.
    fn writes_shared(&self, pages: &Pages) -> bool {
        self.table.get(self.read as usize / PAGE).is_some_and(|page| !pages.is_own(*page))
    }

    /// Pages that nobody else holds.
    pub(super) fn own_pages(&self, pages: &Pages) -> usize {
        self.table.iter().filter(|page| pages.is_own(**page)).count()
    }

    /// Pages to take before it can read up to `positions`.
    pub(super) fn lacks(&self, pages: &Pages, positions: u32) -> usize {
        pages_of(positions).saturating_sub(self.table.len()) + usize::from(self.writes_shared(pages))
    }

    /// Takes what it lacks; the caller has seen that there is as much.
    pub(super) fn grow(&mut self, pages: &mut Pages, positions: u32) {
        if let Some(page) = self.table.get_mut(self.read as usize / PAGE) {
            *page = pages.own(*page).unwrap_or(*page);
        }
        let missing = pages_of(positions).saturating_sub(self.table.len());
        self.table.extend((0..missing).map_while(|_| pages.take()));
    }

    /// Notes that it has read these tokens: whole blocks become known.
    pub(super) fn advance(&mut self, pages: &mut Pages, tokens: impl Iterator<Item = u32>) {
        for token in tokens {
            self.read += 1;
            let Some(chain) = &mut self.chain else { continue };
            chain.tokens.push(token);
            if chain.tokens.len() == PAGE {
                chain.last = chain.last.then(&chain.tokens);
                chain.tokens.clear();
                let page = &mut self.table[self.read as usize / PAGE - 1];
                *page = pages.learn(*page, chain.last);
            }
        }
    }

    /// A number in it is not finite: nobody else is to read what comes from here on.
    pub(super) fn spoil(&mut self) {
        self.chain = None;
    }
}
